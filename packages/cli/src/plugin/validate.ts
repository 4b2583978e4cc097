/** A plugin's manifest against its code and its package: every check, whatever the others found. */

import { existsSync } from 'node:fs';
import { join } from 'node:path';

import { entryOf, loadPlugin, type Plugin, readPackage, readPlugin } from '@attune/core';
import { AttuneError } from '@attune/engine';

import {
  type Candidate,
  type CheckResult,
  type Loaded,
  type PackageFile,
  reasonOf,
  verdictOf,
} from './check.ts';
import {
  checkContributions,
  checkNeighbours,
  checkOptions,
  describeManifest,
} from './checks-code.ts';
import { checkAbout, checkExports, checkPack, checkPeers } from './checks-package.ts';
import { type CodeSurvey, surveyCode } from './code.ts';
import { listPlugins } from './listing.ts';

const noCode: CodeSurvey = { files: [], packages: new Map(), broken: [] };

/** The manifest first: without a right one there is nothing to check the rest against. */
export async function validatePlugin(folder: string): Promise<readonly CheckResult[]> {
  let candidate: Candidate;
  try {
    const plugin = readPlugin(folder);
    if (!plugin)
      return [
        verdictOf('manifest', '', [
          'package.json has no name or no "attune" entry: it is no plugin',
        ]),
      ];
    candidate = { plugin, folder, json: readPackage(folder) as PackageFile };
  } catch (error) {
    if (!AttuneError.is(error)) throw error;
    return [verdictOf('manifest', '', [error.message])];
  }
  const results = [
    verdictOf('manifest', describeManifest(candidate.plugin), []),
    checkAbout(candidate),
    checkExports(candidate),
    checkNeighbours(candidate, listPlugins()),
  ];
  let exported: Plugin | undefined;
  let failure = '';
  const entry = entryOf(candidate.json);
  const there = existsSync(join(folder, entry));
  try {
    if (there) exported = await loadPlugin(candidate.plugin);
    else failure = `there is no ${entry}`;
  } catch (error) {
    failure = reasonOf(error);
  }
  const code = there ? await surveyCode(folder, entry) : noCode;
  const loaded: Loaded = { ...candidate, code, exported };
  results.push(checkContributions(loaded, failure));
  if (exported) results.push(checkOptions(exported));
  results.push(checkPeers(loaded), checkPack(loaded));
  return results;
}
