/** Addresses (diffusers' dotted names) and the selectors that match them. */

import { AttuneError } from '@attune/engine';

/** The kinds of places at which an adapter may act. */
export type SiteKind = 'layer' | 'attention' | 'tokens' | 'hidden' | 'skip' | 'mid' | 'context';

const kinds: ReadonlySet<string> = new Set<SiteKind>([
  'layer',
  'attention',
  'tokens',
  'hidden',
  'skip',
  'mid',
  'context',
]);

/**
 * One selector or several: `kind:pattern`, kind `layer` by default. `*` is one part of an address or
 * a piece of it, `**` any number of parts: `skip:unet.skips.*`, `unet.**.to_q`.
 */
export type Selector = string | readonly string[];

export interface Matcher {
  readonly text: string;
  matches(kind: SiteKind, address: string): boolean;
}

/** Compiles a selector; an unknown kind or an empty pattern is an error. */
export function matcher(selector: Selector): Matcher {
  const each = (typeof selector === 'string' ? [selector] : selector).map((text) => {
    const colon = text.indexOf(':');
    const kind = colon < 0 ? 'layer' : text.slice(0, colon);
    const glob = text.slice(colon + 1);
    if (!kinds.has(kind) || !glob)
      throw new AttuneError(
        'BAD_SELECTOR',
        `"${text}" is no selector: write kind:pattern with a kind of ${[...kinds].join(', ')}.`,
        { selector: text },
      );
    return { kind, pattern: pattern(glob) };
  });
  return {
    text: each.length === 1 ? String(selector) : `[${String(selector)}]`,
    matches: (kind, address) => each.some((one) => one.kind === kind && one.pattern.test(address)),
  };
}

/** A glob over dotted addresses as a regular expression. */
export function pattern(glob: string): RegExp {
  const parts = glob
    .split('.')
    .map((part) =>
      part === '**'
        ? '**'
        : part.replaceAll(/[.*+?^${}()|[\]\\]/g, (c) => (c === '*' ? '[^.]*' : `\\${c}`)),
    );
  let source = '';
  parts.forEach((part, i) => {
    if (part === '**') source += i === parts.length - 1 ? '.*' : '(?:[^.]+\\.)*';
    else source += part + (i === parts.length - 1 ? '' : '\\.');
  });
  return new RegExp(`^${source}$`);
}
