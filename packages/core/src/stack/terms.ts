/** Which terms a stack comes under: the strictest of its parts, and the parts that say nothing. */

/** How much terms ask of who uses, changes or shares a work, least first. */
const tiers: readonly { readonly asks: string; readonly ids: RegExp }[] = [
  { asks: 'nothing', ids: /^(cc0(-1\.0)?|unlicense|0bsd|mit-0|wtfpl|pddl)$/ },
  {
    asks: 'naming the authors',
    ids: /^(mit|isc|zlib|apache(-2\.0)?|bsd(-\w+-clause)?|afl-3\.0|cc-by(-\d\.\d)?|odc-by|postgresql|ncsa|bsl-1\.0)$/,
  },
  {
    asks: 'changes to be shared alike',
    ids: /^(cc-by-sa(-\d\.\d)?|lgpl(-.*)?|mpl-2\.0|epl-[12]\.0|gpl(-.*)?|agpl(-.*)?|osl-3\.0|eupl-1\.[12]|odbl)$/,
  },
  { asks: 'restrictions of use to be passed on', ids: /openrail|^(rail|gemma|llama\d?)/ },
  { asks: 'no changes to be shared', ids: /^cc-by-nd/ },
  { asks: 'no commercial use', ids: /(^|-)(nc|noncommercial|non-commercial)(-|$)/ },
];

export interface Terms {
  /** The strictest licence among those known; null where none is. */
  readonly strictest: string | null;
  /** What it asks for. */
  readonly asks: string | null;
  /** Parts without a licence, or with one that this list does not know: nothing may be assumed of them. */
  readonly unknown: readonly string[];
}

const tierOf = (license: string): number =>
  tiers.findLastIndex(({ ids }) => ids.test(license.toLowerCase()));

/** The terms of a whole, from the licence of each part by its name. This is no legal advice. */
export function termsOf(parts: ReadonlyMap<string, string | null>): Terms {
  const known = [...parts].flatMap(([name, license]) => {
    const tier = license === null ? -1 : tierOf(license);
    return tier < 0 ? [] : [{ name, license: license!, tier }];
  });
  const names = new Set(known.map(({ name }) => name));
  const [top] = known.toSorted((a, b) => b.tier - a.tier);
  return {
    strictest: top?.license ?? null,
    asks: top ? tiers[top.tier].asks : null,
    unknown: [...parts.keys()].filter((name) => !names.has(name)),
  };
}
