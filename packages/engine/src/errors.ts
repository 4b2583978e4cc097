/** One error class and one catalogue: a stable code, what happened, where, the numbers, the way out. */

const brand = Symbol.for('@attune/error');

/** Every error attune raises on purpose. `code` is stable; `facts` holds the numbers the text was made from. */
export class AttuneError extends Error {
  readonly code: string;
  readonly facts: Readonly<Record<string, unknown>>;

  constructor(code: string, message: string, facts: Readonly<Record<string, unknown>> = {}) {
    super(message);
    this.name = 'AttuneError';
    this.code = code;
    this.facts = facts;
    Object.defineProperty(this, brand, { value: true });
  }

  /** True for an AttuneError of any copy of this package. */
  static is(error: unknown): error is AttuneError {
    return typeof error === 'object' && error !== null && brand in error;
  }
}

/** The `count` entries of `candidates` that look most like `word`, for "did you mean". */
export function nearest(word: string, candidates: Iterable<string>, count = 3): string[] {
  const scored = [...new Set(candidates)].map((name) => ({ name, far: distance(word, name) }));
  return scored
    .toSorted((a, b) => a.far - b.far || (a.name < b.name ? -1 : 1))
    .slice(0, count)
    .map(({ name }) => name);
}

/** Levenshtein distance, on one row. */
function distance(a: string, b: string): number {
  const row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    let diagonal = row[0];
    row[0] = i;
    for (let j = 1; j <= b.length; j++) {
      const above = row[j];
      row[j] = Math.min(above + 1, row[j - 1] + 1, diagonal + (a[i - 1] === b[j - 1] ? 0 : 1));
      diagonal = above;
    }
  }
  return row[b.length];
}

/**
 * The error SHAPE_MISMATCH of an op whose operands have shapes that do not fit; `why` ends the sentence: `do
 * not broadcast`.
 */
export const shapeMismatch = (
  op: string,
  a: readonly number[],
  b: readonly number[],
  why: string,
) => new AttuneError('SHAPE_MISMATCH', `${op}: [${a}] and [${b}] ${why}.`, { op, a, b });

/**
 * The error BAD_ARGUMENT of a call: `where` (the function), `what` is wrong with what it was given, and the
 * way out.
 */
export const badArgument = (where: string, what: string, fix: string) =>
  new AttuneError('BAD_ARGUMENT', `${where}: ${what}; ${fix}.`, { where });

/**
 * The error BAD_FILE of a file that is not what it should be. `facts` is added to the error's own beside
 * `file`.
 */
export const badFile = (
  file: string,
  what: string,
  facts: Readonly<Record<string, unknown>> = {},
) => new AttuneError('BAD_FILE', `${file}: ${what}.`, { file, ...facts });
