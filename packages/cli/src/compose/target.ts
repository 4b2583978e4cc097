/** Where a composed stack may be written. */

import { existsSync } from 'node:fs';
import { dirname } from 'node:path';

import { AttuneError } from '@attune/engine';

/** Throws USAGE, MISSING_FILE or, for a file that is there and not to be replaced, EXISTS. */
export function checkTarget(out: string, force: boolean): void {
  if (!/\.ya?ml$/.test(out)) throw new AttuneError('USAGE', `${out}: a stack file ends in .yaml.`);
  if (!existsSync(dirname(out)))
    throw new AttuneError(
      'MISSING_FILE',
      `${dirname(out)}, where ${out} should go, does not exist.`,
    );
  if (!force && existsSync(out))
    throw new AttuneError('EXISTS', `${out} exists: choose another name or pass --force.`);
}
