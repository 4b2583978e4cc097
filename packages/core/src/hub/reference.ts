/** What `hf:owner/name[@revision][:file]` names on a hub of models. */

import { AttuneError } from '@attune/engine';

/** A parsed reference. */
export interface HubReference {
  /** `owner/name`. */
  readonly repo: string;
  /** A branch, a tag or a commit. */
  readonly revision: string;
  /** A file or a folder in the repository; its parts are joined by `/`. */
  readonly file?: string;
}

const scheme = 'hf:';
const form = 'hf:owner/name[@revision][:file]';

/** Whether a path is meant as a reference to a hub. A folder of such a name is written with `./` before it. */
export const isHubReference = (path: string): boolean => path.startsWith(scheme);

/** Throws BAD_REFERENCE for what starts as a reference and is none, with the part that is wrong. */
export function parseHubReference(text: string): HubReference {
  const parts =
    /^hf:(?<repo>[^@:]*)(?:@(?<revision>[^:]*))?(?::(?<file>[\s\S]*))?$/.exec(text)?.groups ?? {};
  const { repo = '', revision = 'main', file } = parts;
  const wrong = (what: string) =>
    new AttuneError('BAD_REFERENCE', `${text}: ${what}; the form is ${form}.`, { text });
  if (!isRepoName(repo)) throw wrong(`"${repo}" is no owner/name of a repository`);
  if (!isRevision(revision)) throw wrong(`"${revision}" is no branch, tag or commit`);
  if (file !== undefined && !isInside(file)) throw wrong(`"${file}" is no path in a repository`);
  return { repo, revision, ...(file === undefined ? {} : { file }) };
}

/** The reference as it is written; the branch main is left out. */
export const hubReferenceText = ({ repo, revision, file }: HubReference): string =>
  `${scheme}${repo}${revision === 'main' ? '' : `@${revision}`}${file === undefined ? '' : `:${file}`}`;

/** The hub's rule for names: `owner/name` of letters, digits, dots, dashes and underscores. */
function isRepoName(repo: string): boolean {
  const one = /^[A-Za-z0-9_]([\w.-]*[A-Za-z0-9_])?$/;
  const parts = repo.split('/');
  return (
    parts.length === 2 &&
    parts.every((part) => one.test(part)) &&
    !/--|\.\.|\.git$/.test(repo) &&
    repo.length <= 96
  );
}

/** Git's names for branches and tags, and commits; nothing that leads out of a folder of references. */
const isRevision = (revision: string): boolean =>
  /^[\w.+/-]{1,200}$/.test(revision) && isInside(revision) && !revision.startsWith('-');

/** A full commit, which never names other files later. */
export const isCommit = (revision: string): boolean => /^[0-9a-f]{40}$/.test(revision);

/** Whether a repository's path stays in its folder on every system: no `..`, no root, no control character. */
export function isInside(path: string): boolean {
  // eslint-disable-next-line no-control-regex
  if (path.length > 1000 || /[\u0000-\u001f\u007f\\]/.test(path)) return false;
  if (/^[A-Za-z]:/.test(path)) return false;
  return path.split('/').every((part) => part !== '' && part !== '.' && part !== '..');
}
