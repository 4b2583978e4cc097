/** Where a composed stack may be written. */

import { existsSync } from 'node:fs';

import { AttuneError } from '@attune/engine';

import { checkPlace } from '../output.ts';

/** Throws USAGE, BAD_OUTPUT or, for a file that is there and not to be replaced, EXISTS. */
export function checkTarget(out: string, force: boolean): void {
  if (!/\.ya?ml$/.test(out)) throw new AttuneError('USAGE', `${out}: a stack file ends in .yaml.`);
  checkPlace(out, 'file');
  if (!force && existsSync(out))
    throw new AttuneError('EXISTS', `${out} exists: choose another name or pass --force.`);
}
