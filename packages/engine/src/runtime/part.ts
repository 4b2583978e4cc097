/** A piece of a graph as a model of its own, compiled and loaded at first use. */

import { AttuneError, nearest } from '../errors.ts';
import { sameShape, type Shape } from '../graph/shape.ts';
import type { Tensor } from '../graph/tensor.ts';
import { emit } from '../onnx/emit.ts';
import type { Weights } from '../weights/store.ts';
import type { DType, NDArray } from './array.ts';
import { type FixedValues, sharedFixed } from './fixed.ts';
import type { Profile, Runtime, Session } from './runtime.ts';

/** Arrays for the inputs and live parameters of a program, by name. */
export type Feeds = Readonly<Record<string, NDArray>>;
export type Values = ReadonlyMap<Tensor, NDArray>;

/** Where a part runs, and the bytes of its frozen parameters. */
export interface PartContext {
  readonly runtime: Runtime;
  readonly weights: Weights;
  /** How those bytes are held, where the runtime leaves it open. */
  readonly profile?: Profile;
  /** Where values that depend on frozen weights alone are stored. Default: in the cache folder. */
  readonly fixed?: FixedValues;
  /** Whether sessions stay loaded between runs, with the memory that their last run took. Default true. */
  readonly keep?: boolean;
}

export class Part {
  readonly #context: PartContext;
  readonly #boundary: ReadonlyMap<Tensor, string>;
  readonly outputs: readonly Tensor[];
  #loaded: Promise<Loaded> | undefined;
  #running = 0;

  /** A model of `outputs`; the tensors of `boundary` are fed under their names. */
  constructor(
    context: PartContext,
    outputs: readonly Tensor[],
    boundary: ReadonlyMap<Tensor, string>,
  ) {
    this.#context = context;
    this.outputs = outputs;
    this.#boundary = boundary;
  }

  /** `spent` are values that nobody reads after this run. */
  async run(
    feeds: Feeds,
    values: Values,
    spent?: ReadonlySet<Tensor>,
  ): Promise<Map<Tensor, NDArray>> {
    if (this.outputs.length === 0) return new Map();
    this.#running++;
    try {
      return await this.#run(feeds, values, spent);
    } finally {
      this.#running--;
      if (this.#running === 0 && this.#context.keep === false) await this.release();
    }
  }

  async #run(
    feeds: Feeds,
    values: Values,
    spent: ReadonlySet<Tensor> | undefined,
  ): Promise<Map<Tensor, NDArray>> {
    const { session, inputs, names } = await (this.#loaded ??= this.#load().catch((error) => {
      this.#loaded = undefined;
      throw error;
    }));
    const fed: Record<string, NDArray> = {};
    for (const [name, t] of inputs) fed[name] = values.get(t) ?? checked(feeds, name, t);
    const given = new Set([...inputs].filter(([, t]) => spent?.has(t)).map(([name]) => name));
    const results = await session.run(fed, [...new Set(names)], given);
    return new Map(this.outputs.map((t, i) => [t, results[names[i]]]));
  }

  async #load(): Promise<Loaded> {
    const { runtime, weights, profile, fixed = sharedFixed() } = this.#context;
    const { model, inputs, outputs } = emit({
      outputs: this.outputs,
      boundary: this.#boundary,
      stored: await fixed.of(this.outputs, this.#boundary, { runtime, weights }),
      weight: (name) => weights.entry(name),
    });
    return { session: await runtime.load(model, profile), inputs, names: outputs };
  }

  async release(): Promise<void> {
    const loaded = this.#loaded;
    this.#loaded = undefined;
    await (await loaded)?.session.release();
  }
}

interface Loaded {
  readonly session: Session;
  readonly inputs: ReadonlyMap<string, Tensor>;
  readonly names: readonly string[];
}

/** A fed array, of the shape and type the program was compiled for. */
export function checked(
  feeds: Feeds,
  name: string,
  t: { readonly shape: Shape; readonly dtype: DType },
): NDArray {
  const array = feeds[name];
  if (!array)
    throw new AttuneError(
      'MISSING_INPUT',
      `The input ${name} [${t.shape}] was not given (given: ${Object.keys(feeds).slice(0, 12).join(', ') || 'nothing'}; nearest: ${nearest(name, Object.keys(feeds), 1).join() || 'none'}).`,
      { name },
    );
  if (!sameShape(array.shape, t.shape) || array.dtype !== t.dtype)
    throw new AttuneError(
      'INPUT_SHAPE',
      `The input ${name} is ${array.dtype} [${array.shape}]; the program wants ${t.dtype} [${t.shape}].`,
      { name, got: array.shape, want: t.shape },
    );
  return array;
}

/** Leaves by name. One name is one leaf, or half of its gradient would be lost. */
export function named(leaves: readonly Tensor[]): Map<string, Tensor> {
  const found = new Map<string, Tensor>();
  for (const t of leaves) {
    const { name } = t.attrs as { name: string };
    if (name.includes('%'))
      throw new AttuneError('BAD_NAME', `${name}: names with "%" are the engine's own.`, { name });
    if (found.has(name))
      throw new AttuneError('NAME_CLASH', `Two inputs or live parameters are named ${name}.`, {
        name,
      });
    found.set(name, t);
  }
  return found;
}
