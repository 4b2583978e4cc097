/** A part of an adapter's file: tensors that fit nowhere left out, those that it lacks filled in, both told. */

import { AttuneError, type NDArray, Rng, sizeOf, Weights, zeros } from '@attune/engine';

import type { Adapter } from '../adapters/adapter.ts';
import { checkShape, compose, inventory } from '../adapters/compose.ts';
import { nominalDims } from '../models/net.ts';
import type { ParamInfo } from '../nn/scope.ts';
import type { AdapterFile, AdapterKind, AdapterRequest } from './plugin.ts';

/** What was passed over. */
export interface Skipped {
  /** Tensors of the file that nothing asks for, by their keys there. */
  readonly unused: readonly string[];
  /** Parameters that the file lacks: as in a fresh adapter where that starts from no chance, else zero. */
  readonly lacking: readonly string[];
}

/** An adapter of what fits, and what was passed over for it. */
export interface PartlyMade {
  readonly adapter: Adapter;
  /** Without what is unused, as far as the kind itself found it to be so. */
  readonly file: AdapterFile;
  readonly skipped: Skipped;
}

/**
 * Creates an adapter from what of its file fits the model. A kind says which tensors it cannot use with an
 * error whose facts hold their keys as `lost`.
 *
 * @throws what `create` throws for any other reason, WEIGHT_SHAPE, and UNMATCHED_WEIGHTS where nothing fits
 */
export function createPartly<O>(
  kind: AdapterKind<O>,
  request: AdapterRequest & { readonly file: AdapterFile },
  options: O,
): PartlyMade {
  const { adapter, file, unused } = accepted(kind, request, options);
  const { name, weights } = adapter;
  if (!weights) return { adapter, file, skipped: { unused, lacking: [] } };
  // Also one of strength 0 is looked at: such a one is not traced.
  const { strength: _, train: __, ...plain } = adapter;
  const { params } = inventory(compose(request.model, plain), nominalDims);
  const wanted = new Map(
    [...params.values()].flatMap((info) =>
      info.name.startsWith(`${name}.`) ? [[info.name.slice(name.length + 1), info] as const] : [],
    ),
  );
  const strays = [...weights.names()].filter((own) => !wanted.has(own));
  if (strays.length === weights.size)
    throw new AttuneError(
      'UNMATCHED_WEIGHTS',
      `${file.path}: none of its ${weights.size} tensors fits the model, first ${strays[0]}: it was made for another one.`,
      { lost: strays },
    );
  const fillers = new Map<string, NDArray>();
  for (const [own, info] of wanted) {
    if (!weights.has(own)) fillers.set(own, filler(info));
    else checkShape({ ...weights.entry(own), name: info.name }, info.shape);
  }
  const kept = weights.renamed((own) => (wanted.has(own) ? own : undefined));
  return {
    adapter: { ...adapter, weights: Weights.overlay(kept, Weights.fromArrays(fillers)) },
    file,
    skipped: {
      unused: [...unused, ...strays.map((own) => adapter.fileKey?.(own) ?? own)],
      lacking: [...fillers.keys()],
    },
  };
}

/** The adapter of the largest part of the file that its kind accepts. */
function accepted<O>(
  kind: AdapterKind<O>,
  request: AdapterRequest & { readonly file: AdapterFile },
  options: O,
): { readonly adapter: Adapter; readonly file: AdapterFile; readonly unused: readonly string[] } {
  let { file } = request;
  const unused: string[] = [];
  for (;;)
    try {
      return { adapter: kind.create({ ...request, file }, options), file, unused };
    } catch (error) {
      const lost = new Set(AttuneError.is(error) ? lostKeys(error, file) : []);
      if (lost.size === 0 || lost.size === file.weights.size) throw error;
      for (const key of lost) unused.push(key);
      const weights = file.weights.renamed((key) => (lost.has(key) ? undefined : key));
      file = { ...file, weights };
    }
}

const lostKeys = ({ facts: { lost } }: AttuneError, { weights }: AdapterFile): string[] =>
  Array.isArray(lost)
    ? lost.filter((key): key is string => typeof key === 'string' && weights.has(key))
    : [];

/** Ones of a norm, a formula's table: what is the same whatever the chance; anything else is zero. */
function filler({ shape, init }: ParamInfo): NDArray {
  const [one, other] = [1, 2].map((seed) => init(Rng.of(seed), shape));
  const sure = one.data.every((value, i) => value === other.data[i]);
  return sure && sizeOf(shape) > 0 ? one : zeros(shape);
}

/** What was passed over, in words; undefined where nothing was. */
export function skippedText({ unused, lacking }: Skipped): string | undefined {
  const parts = [
    ...(unused.length ? [`skips ${unused.length} tensors of its file: ${unused.join(', ')}`] : []),
    ...(lacking.length
      ? [`does without ${lacking.length} that its file lacks: ${lacking.join(', ')}`]
      : []),
  ];
  return parts.length ? parts.join('; ') : undefined;
}
