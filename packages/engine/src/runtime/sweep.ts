/** Backward passes: one cotangent per crossing value, summed over consumers and over steps. */

import { grad } from '../autodiff.ts';
import { AttuneError, nearest } from '../errors.ts';
import { input, isInput, isLeaf } from '../graph/leaf.ts';
import type { Segment } from '../graph/plan.ts';
import { savedValues } from '../graph/remat.ts';
import { ancestors, type Tensor } from '../graph/tensor.ts';
import {
  type F32Array,
  isFloat,
  itemSize,
  type NDArray,
  sizeOf,
  type TypedArray,
} from './array.ts';
import { checked, type Feeds, type Part } from './part.ts';
import type { Program } from './program.ts';

/** What a backward pass recomputes: nothing, each step's forward, or each segment's inside. */
export type Remat = (typeof REMATS)[number];

/** In order: the later, the less is kept and the more is computed again. */
const REMATS = ['none', 'step', 'segment'] as const;

/** What a sweep may keep: it takes the first `Remat` whose forecast fits, or the last one. */
export interface Budget {
  /** Steps between the first `step` and the last `back`. */
  readonly steps: number;
  /** Bytes of forward values kept at once. */
  readonly bytes: number;
}

/** What a forward pass left for its backward pass. */
export interface Tape {
  readonly feeds: Feeds;
  readonly values: Map<Tensor, NDArray>;
  /** False where the backward pass has to run the forward again. */
  readonly kept: boolean;
  /** A backward pass has used up what was kept. */
  spent?: boolean;
}

/** Cotangents gathered during a sweep, summed over consumers and steps. */
export type Cotangents = Map<Tensor, F32Array>;

interface Backward {
  readonly segment: Segment;
  /** Forward, with the values that `back` reads. */
  readonly keep: Part;
  readonly back: Part;
  /** Forward and backward in one model. */
  readonly fused: Part;
  /** What `back` reads beside its seeds. */
  readonly reads: readonly Tensor[];
  readonly ys: readonly Tensor[];
  readonly seeds: readonly Tensor[];
  readonly xs: readonly Tensor[];
  readonly grads: readonly Tensor[];
}

/**
 * The backward pass of a program, made with `Program.sweep`. A rollout of k steps is: `clip` once, `step` k
 * times, then `back` for the steps in reverse with one `bar` for all, and `finish` once. For a single call
 * there is `run`.
 */
export class Sweep {
  readonly #program: Program;
  readonly #forward: readonly Part[];
  readonly #backward: readonly (Backward | undefined)[];
  readonly #targets: readonly Tensor[];
  /** Of each backward segment, what it is the last to read of a step's own values. */
  readonly #last: readonly ReadonlySet<Tensor>[];
  readonly remat: Remat;

  constructor(
    program: Program,
    forward: readonly Part[],
    targets: readonly Tensor[],
    remat: Remat | Budget,
  ) {
    this.#program = program;
    this.#forward = forward;
    this.#targets = targets;
    const active = new Set<Tensor>(targets);
    for (const t of ancestors(Object.values(program.outputs)))
      if (t.inputs.some((x) => active.has(x))) active.add(t);
    this.#backward = program.segments.map((segment) => this.#differentiate(segment, active));
    this.#last = this.#lastReads();
    this.remat =
      typeof remat === 'string'
        ? remat
        : (REMATS.find((one) => this.forecast(remat.steps)[one] <= remat.bytes) ?? 'segment');
  }

  /**
   * Bytes of step-rate forward values that are held at once over `steps` steps: `none` keeps every
   * step's, `step` one step's, `segment` what crosses segments and the inside of the largest one.
   */
  forecast(steps: number): Readonly<Record<Remat, number>> {
    const parts = this.#program.segments
      .map((segment, i) => ({ segment, keep: this.#backward[i]?.keep }))
      .filter(({ segment }) => segment.rate === 'step')
      .map(({ segment, keep }) => {
        const crossing = bytesIn(segment.outputs);
        return { crossing, kept: keep ? bytesIn(keep.outputs) : crossing };
      });
    const step = parts.reduce((sum, { kept }) => sum + kept, 0);
    const crossing = parts.reduce((sum, part) => sum + part.crossing, 0);
    const inside = Math.max(0, ...parts.map((part) => part.kept - part.crossing));
    return { none: steps * step, step, segment: crossing + inside };
  }

  /** Backward passes go from the last segment to the first; outputs belong to the caller. */
  #lastReads(): ReadonlySet<Tensor>[] {
    const { outputs, segments } = this.#program;
    const kept = new Set<Tensor>([
      ...Object.values(outputs),
      ...segments.flatMap(({ rate, outputs: own }) => (rate === 'step' ? [] : own)),
    ]);
    return this.#backward.map((backward) => {
      const mine = (backward?.reads ?? []).filter((t) => !isLeaf(t) && !kept.has(t));
      for (const t of mine) kept.add(t);
      return new Set(backward?.segment.rate === 'step' ? mine : []);
    });
  }

  #differentiate(segment: Segment, active: ReadonlySet<Tensor>): Backward | undefined {
    // The cotangent of a leaf that is an output is its gradient already.
    const ys = segment.outputs.filter((t) => active.has(t) && isFloat(t.dtype) && !isLeaf(t));
    const inside = new Set(ancestors(segment.outputs, new Set(segment.crossing)));
    const leaves = this.#targets.filter((t) => inside.has(t));
    const wanted = [...segment.crossing.filter((t) => active.has(t)), ...leaves];
    if (ys.length === 0 || wanted.length === 0) return undefined;
    const seeds = ys.map((y) => input(`grad.${this.#program.nameOf(y)}`, y.shape));
    const found = grad(ys, seeds, wanted);
    const xs = wanted.filter((_, i) => found[i]);
    const grads = found.filter((g) => g !== null);
    const saved = savedValues(grads, seeds, segment.crossing);
    const boundary = [...new Set([...saved, ...segment.crossing])];
    return {
      segment,
      ys,
      seeds,
      xs,
      grads,
      reads: boundary,
      keep: this.#program.part([...new Set([...segment.outputs, ...saved])], segment.crossing),
      back: this.#program.part(grads, boundary),
      fused: this.#program.part(grads, segment.crossing),
    };
  }

  /** Runs the clip-rate segments; the result feeds every `step` and, last, `finish`. */
  async clip(feeds: Feeds): Promise<Tape> {
    const tape: Tape = { feeds, values: new Map(), kept: this.remat === 'none' };
    await this.#run('clip', tape, tape.kept);
    return tape;
  }

  /** One call of the network. The tape holds what `remat` lets it keep. */
  async step(clip: Tape, feeds: Feeds): Promise<{ outputs: Record<string, NDArray>; tape: Tape }> {
    const kept = this.remat === 'none';
    const values = new Map(clip.values);
    await this.#run('step', { feeds, values, kept }, kept);
    const outputs = this.#program.results(values);
    return { outputs, tape: { feeds, values: kept ? values : clip.values, kept } };
  }

  /**
   * The backward pass of one step: cotangents of its outputs in, gradients of its own inputs (those of
   * rate `step`) out. What belongs to the clip is poured into `bar`, summed over steps.
   */
  async back(tape: Tape, cotangents: Feeds, bar: Cotangents): Promise<Record<string, F32Array>> {
    if (tape.spent)
      throw new AttuneError(
        'TAPE_SPENT',
        'A tape was swept back twice: what a step keeps is used up by its backward pass; run the step again.',
      );
    if (tape.kept) tape.spent = true;
    const own: Cotangents = new Map();
    const { outputs, segments } = this.#program;
    for (const name of Object.keys(cotangents)) {
      const t = outputs[name];
      if (!t)
        throw new AttuneError(
          'UNKNOWN_OUTPUT',
          `A cotangent was given for ${name}, which is no output; nearest: ${nearest(name, Object.keys(outputs)).join(', ')}.`,
          { name },
        );
      const inStep = isLeaf(t)
        ? isInput(t) && t.attrs.rate === 'step'
        : segments.some((s) => s.rate === 'step' && s.outputs.includes(t));
      const { shape } = t;
      pour(inStep ? own : bar, t, checked(cotangents, name, { shape, dtype: 'f32' }) as F32Array);
    }
    await this.#sweep('step', tape, own, bar);
    return this.#named((t) => isInput(t) && t.attrs.rate === 'step', own);
  }

  /** Sweeps the clip-rate segments, once, and returns the gradients of what belongs to the clip. */
  async finish(clip: Tape, bar: Cotangents): Promise<Record<string, F32Array>> {
    await this.#sweep('clip', clip, bar, bar);
    return this.#named((t) => !(isInput(t) && t.attrs.rate === 'step'), bar);
  }

  #named(wanted: (t: Tensor) => boolean, bar: Cotangents): Record<string, F32Array> {
    return Object.fromEntries(
      this.#targets
        .filter(wanted)
        .map((t) => [(t.attrs as { name: string }).name, bar.get(t) ?? zeroLike(t)]),
    );
  }

  /** Gradients of Σ outputs · cotangents for one call: forward, backward and clip segments. */
  async run(
    feeds: Feeds,
    cotangents: Feeds,
  ): Promise<{ outputs: Record<string, NDArray>; grads: Record<string, F32Array> }> {
    const clip = await this.clip(feeds);
    const { outputs, tape } = await this.step(clip, feeds);
    const bar: Cotangents = new Map();
    const own = await this.back(tape, cotangents, bar);
    return { outputs, grads: { ...own, ...(await this.finish(clip, bar)) } };
  }

  async #run(rate: Segment['rate'], { feeds, values }: Tape, keep: boolean): Promise<void> {
    for (const [i, segment] of this.#program.segments.entries()) {
      if (segment.rate !== rate) continue;
      const part = (keep && this.#backward[i]?.keep) || this.#forward[i];
      for (const [t, value] of await part.run(feeds, values)) values.set(t, value);
    }
  }

  /** `own` holds cotangents of this rate's values and inputs; those of slower ones go to `bar`. */
  async #sweep(rate: Segment['rate'], tape: Tape, own: Cotangents, bar: Cotangents): Promise<void> {
    const here = this.#program.segments
      .map((segment, i) => ({ segment, backward: this.#backward[i], last: this.#last[i] }))
      .filter(({ segment }) => segment.rate === rate);
    if (!here.some(({ backward }) => backward)) return;
    // One segment alone goes forward and back in one model: nothing of it has to leave ONNX Runtime.
    const fuse = !tape.kept && (this.remat === 'segment' || here.length === 1);
    const values = tape.kept ? tape.values : new Map(tape.values);
    // Several segments need each other's crossing values again; one alone starts from its inputs.
    if (!tape.kept && !(fuse && here.length === 1))
      await this.#run(rate, { ...tape, values }, !fuse);
    const mine = new Set<Tensor>([
      ...here.flatMap(({ segment }) => segment.outputs.filter((t) => !isLeaf(t))),
      ...(rate === 'step'
        ? this.#targets.filter((t) => isInput(t) && t.attrs.rate === 'step')
        : []),
    ]);
    for (const { backward, last } of here.toReversed()) {
      if (!backward) continue;
      const { ys, seeds, xs, grads } = backward;
      const feeds: Record<string, NDArray> = { ...tape.feeds };
      for (const [i, y] of ys.entries())
        feeds[(seeds[i].attrs as { name: string }).name] = own.get(y) ?? zeroLike(y);
      const part = fuse ? backward.fused : backward.back;
      const spent = fuse ? undefined : unshared(last, values);
      const results = await part.run(feeds, values, spent);
      for (const t of spent ?? []) values.delete(t);
      for (const [i, x] of xs.entries())
        pour(mine.has(x) ? own : bar, x, results.get(grads[i]) as F32Array);
    }
  }
}

/** Those values whose array no other value has, too. */
function unshared(some: ReadonlySet<Tensor>, values: ReadonlyMap<Tensor, NDArray>): Set<Tensor> {
  const others = new Set([...values].filter(([t]) => !some.has(t)).map(([, { data }]) => data));
  return new Set([...some].filter((t) => !others.has(values.get(t)?.data as TypedArray)));
}

/** Sums that `pour` made itself, which nobody else holds yet. */
const sums = new WeakSet<Float32Array>();

function pour(bar: Cotangents, t: Tensor, dt: F32Array): void {
  const seen = bar.get(t);
  if (!seen) {
    bar.set(t, dt);
    return;
  }
  const sum = sums.has(seen.data) ? seen.data : Float32Array.from(seen.data);
  for (let i = 0; i < sum.length; i++) sum[i] += dt.data[i];
  sums.add(sum);
  bar.set(t, { ...seen, data: sum });
}

const bytesIn = (values: readonly Tensor[]): number =>
  values.reduce((sum, { shape, dtype }) => sum + sizeOf(shape) * itemSize[dtype], 0);

const zeroLike = (t: Tensor): F32Array => ({
  dtype: 'f32',
  shape: t.shape,
  data: new Float32Array(sizeOf(t.shape)),
});
