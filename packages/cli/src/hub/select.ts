/** Which files of a repository are pulled: those that attune reads, or what globs say. */

import { modelParts, weightName, weightVariants } from '@attune/core';
import { AttuneError, nearest } from '@attune/engine';

export interface Selection {
  /** A file or a folder of the repository; all of it otherwise. */
  readonly file?: string;
  /** `fp16`, `non_ema`; plain weights otherwise. Folders without it give what they have. */
  readonly variant?: string;
  /** Globs in place of the choice made here. */
  readonly include?: readonly string[];
  readonly exclude?: readonly string[];
}

/**
 * The names to pull. A file is itself; of a folder or a whole repository that which attune reads: configs,
 * tokenizers, and of each folder one set of weights, safetensors before pickles. Whole checkpoints beside a
 * model's folders are left where they are. Throws NO_FILE, with the nearest names, where nothing is meant.
 */
export function selectFiles(
  names: readonly string[],
  { file, variant = '', include = [], exclude = [] }: Selection,
  where: string,
): string[] {
  const top = file === undefined ? '' : `${file}/`;
  if (file !== undefined && names.includes(file)) return [file];
  const inside = names.filter((name) => name.startsWith(top)).map((name) => name.slice(top.length));
  if (inside.length === 0)
    throw new AttuneError('NO_FILE', `${where} holds no ${file ?? 'files'}${near(file, names)}.`, {
      file,
    });
  const chosen = include.length > 0 ? inside.filter(anyOf(include)) : readable(inside, variant);
  const refused = anyOf(exclude);
  const left = chosen.filter((name) => !refused(name)).map((name) => top + name);
  if (left.length > 0) return left;
  const asked =
    include.length + exclude.length > 0
      ? 'no file that --include and --exclude leave'
      : 'nothing that attune reads';
  throw new AttuneError(
    'NO_FILE',
    `${where} holds ${asked}; it has ${inside.slice(0, 5).join(', ')}${inside.length > 5 ? ` and ${inside.length - 5} more` : ''}. Name a file (${where}:NAME), or take more with --include '*'.`,
  );
}

const near = (file: string | undefined, names: readonly string[]): string => {
  const close = file === undefined ? [] : nearest(file, names, 2);
  return close.length > 0 ? `; nearest: ${close.join(', ')}` : '';
};

const folderOf = (name: string): string => name.slice(0, Math.max(0, name.lastIndexOf('/')));

/** Folders beside a model's nets that it is read with. */
const companions = ['scheduler', 'tokenizer'];

const weights = /\.(safetensors|bin|ckpt|pth?)$/;

/** What attune reads of a repository. */
function readable(names: readonly string[], variant: string): string[] {
  const parts = modelParts.filter((part) => names.includes(`${part}/config.json`));
  const isModel = parts.length > 0;
  const top = names.some((name) => !name.includes('/') && weights.test(name));
  const folders = isModel ? ['', ...parts, ...companions] : top ? [''] : undefined;
  return [...grouped(names)].flatMap(([folder, files]) => {
    if (folders && !folders.includes(folder)) return [];
    const own = files.map((name) => name.slice(folder === '' ? 0 : folder.length + 1));
    // A model's folders hold all of it; checkpoints in one file beside them would be it once more.
    const chosen = isModel && folder === '' ? [] : oneSet(own, variant);
    const configs = own.filter(isConfig);
    return files.filter((_, i) => configs.includes(own[i]) || chosen.includes(own[i]));
  });
}

function grouped(names: readonly string[]): Map<string, string[]> {
  const map = new Map<string, string[]>();
  for (const name of names) {
    const folder = folderOf(name);
    map.set(folder, [...(map.get(folder) ?? []), name]);
  }
  return map;
}

const isConfig = (name: string): boolean =>
  (name.endsWith('.json') && !weightName(name)) || name === 'merges.txt';

/** One set of a folder's weights of standard names, or all others, each in one format. */
function oneSet(names: readonly string[], variant: string): string[] {
  const standard = names.flatMap((name) => {
    const parsed = weightName(name);
    return parsed ? [{ name, ...parsed }] : [];
  });
  const order = [variant, ...weightVariants];
  for (const wanted of order)
    for (const kind of ['safetensors', 'bin']) {
      const set = standard.filter((one) => one.variant === wanted && one.kind === kind);
      if (set.length > 0) return set.map(({ name }) => name);
    }
  const best = new Map<string, string>();
  const half = /\.(fp16|non_ema)$/;
  const rank = (name: string): number =>
    2 * Number((half.exec(name.replace(weights, ''))?.[1] ?? '') !== variant) +
    Number(!name.endsWith('.safetensors'));
  for (const name of names) {
    if (!weights.test(name) || weightName(name)) continue;
    const stem = name.replace(weights, '').replace(half, '');
    const other = best.get(stem);
    if (other === undefined || rank(name) < rank(other)) best.set(stem, name);
  }
  return [...best.values()];
}

/** Globs as huggingface_hub reads them: `*` also crosses folders, a final `/` means all inside. */
function anyOf(globs: readonly string[]): (name: string) => boolean {
  const all = globs.map((glob) => globPattern(glob.endsWith('/') ? `${glob}*` : glob));
  return (name) => all.some((one) => one.test(name));
}

function globPattern(glob: string): RegExp {
  const text = glob.replaceAll(
    /\*+|\?|\[(!?)([^\]]+)\]|[\s\S]/g,
    (part, not?: string, set?: string) => {
      if (part.startsWith('*')) return '.*';
      if (part === '?') return '.';
      if (set !== undefined) return `[${not ? '^' : ''}${set.replaceAll(/[\\\]^]/g, '\\$&')}]`;
      return part.replace(/[$()*+.?[\\\]^{|}/-]/, '\\$&');
    },
  );
  return new RegExp(`^${text}$`, 's');
}
