/** Compiled graphs: segments run forward; `sweep` makes their backward passes. */

import { AttuneError, nearest } from '../errors.ts';
import { isInput, isParam } from '../graph/leaf.ts';
import { peakBytes } from '../graph/peak.ts';
import { plan, type PlanOptions, type Segment, type Traced } from '../graph/plan.ts';
import { ancestors, type Tensor } from '../graph/tensor.ts';
import type { NDArray } from './array.ts';
import { type Feeds, named, Part, type PartContext, type Values } from './part.ts';
import { type Budget, type Remat, Sweep } from './sweep.ts';

/**
 * `profile` and `segments` default by the size of the frozen weights: up to 256 MiB (in float32) one
 * prepacked model, above that one mapped model per run of nodes between marks. Mapped 16-bit weights are
 * always cut so: one model would hold the f32 copies of all of them at once. `keep` defaults by what the
 * sessions would hold between runs: up to 2 GiB they stay loaded, above that each is let go after its run.
 */
export interface ProgramOptions extends PlanOptions, PartContext {}

const BIG = 256 * 2 ** 20;
const MOST_KEPT = 2 * 2 ** 30;

/** The values of the clip-rate segments, shared by all steps of a clip. */
export interface Clip {
  readonly values: Map<Tensor, NDArray>;
}

/** A compiled graph. Sessions are made when first needed and kept until `release`. */
export class Program {
  readonly options: ProgramOptions;
  readonly outputs: Readonly<Record<string, Tensor>>;
  /** Everything that is fed: inputs and live parameters, by name. */
  readonly inputs: ReadonlyMap<string, Tensor>;
  readonly segments: readonly Segment[];
  readonly #forward: readonly Part[];
  /** Of each segment, the values that no later one reads. */
  readonly #spent: readonly (readonly Tensor[])[];
  readonly #names = new Map<Tensor, string>();
  readonly #parts: Part[] = [];
  readonly #isCast: (name: string) => boolean;

  constructor(traced: Traced, options: ProgramOptions) {
    this.outputs = traced.outputs;
    const alive = ancestors(Object.values(traced.outputs));
    this.inputs = named(alive.filter((t) => isInput(t) || (isParam(t) && t.attrs.live)));
    const frozen = alive.filter((t) => isParam(t) && !t.attrs.live);
    const bytes = frozen.reduce((sum, { size }) => sum + 4 * size, 0);
    const profile = options.runtime.profile ?? (bytes > BIG ? 'mapped' : 'prepacked');
    const { weights } = options;
    const isCast = (name: string) => weights.has(name) && weights.entry(name).dtype !== 'f32';
    const cut = bytes > BIG || frozen.some(({ attrs }) => isCast((attrs as { name: string }).name));
    const segments = profile === 'mapped' && cut ? 'marks' : 1;
    this.segments = plan(traced, { segments, ...options });
    // A device would be sent the weights again.
    const brief = (options.profile ?? profile) === 'mapped' && options.runtime.device === 'cpu';
    this.#isCast = isCast;
    const held = brief ? this.#held() : [];
    const keep = held.reduce((sum, own) => sum + own, 0) <= MOST_KEPT;
    this.options = { segments, profile, keep, ...options };
    this.#spent = lastReads(this.segments, Object.values(traced.outputs));
    this.#forward = this.segments.map((s) => this.part(s.outputs, s.crossing));
  }

  /** Bytes that one run makes and holds at once, at least; what is fed is the caller's. */
  get peak(): number {
    return Math.max(0, ...this.#held());
  }

  #held(): number[] {
    return this.segments.map(({ outputs, crossing }) =>
      peakBytes(outputs, new Set(crossing), this.#isCast),
    );
  }

  /** A model of `outputs` whose `boundary` is fed. */
  part(outputs: readonly Tensor[], boundary: readonly Tensor[]): Part {
    const part = new Part(this.options, outputs, new Map(boundary.map((t) => [t, this.nameOf(t)])));
    this.#parts.push(part);
    return part;
  }

  /** The input name of a crossing value. */
  nameOf(t: Tensor): string {
    const known = this.#names.get(t);
    if (known !== undefined) return known;
    const name = `%${this.#names.size}`;
    this.#names.set(t, name);
    return name;
  }

  /** Runs the clip-rate segments. */
  async clip(feeds: Feeds): Promise<Clip> {
    const values = new Map<Tensor, NDArray>();
    await this.#run('clip', feeds, values);
    return { values };
  }

  /** Runs the step-rate segments and returns the program's outputs. */
  async step(clip: Clip, feeds: Feeds): Promise<Record<string, NDArray>> {
    const values = new Map(clip.values);
    await this.#run('step', feeds, values);
    return this.results(values);
  }

  /** Runs everything once. */
  async run(feeds: Feeds): Promise<Record<string, NDArray>> {
    return this.step(await this.clip(feeds), feeds);
  }

  /** The program's outputs by name, out of the values that its segments made. */
  results(values: Values): Record<string, NDArray> {
    return Object.fromEntries(
      Object.entries(this.outputs).map(([name, t]) => [name, values.get(t)!]),
    );
  }

  async #run(rate: Segment['rate'], feeds: Feeds, values: Map<Tensor, NDArray>): Promise<void> {
    for (const [i, segment] of this.segments.entries()) {
      if (segment.rate !== rate) continue;
      for (const [t, value] of await this.#forward[i].run(feeds, values)) values.set(t, value);
      for (const t of this.#spent[i]) values.delete(t);
    }
  }

  /** A backward pass for the named inputs and live parameters; a budget chooses what it recomputes. */
  sweep(wrt: readonly string[], remat: Remat | Budget = 'none'): Sweep {
    const targets = [...new Set(wrt)].map((name) => {
      const leaf = this.inputs.get(name);
      if (!leaf)
        throw new AttuneError(
          'UNKNOWN_INPUT',
          `No input or live parameter is named ${name}; nearest: ${nearest(name, this.inputs.keys()).join(', ')}.`,
          { name },
        );
      return leaf;
    });
    return new Sweep(this, this.#forward, targets, remat);
  }

  /** Releases all sessions, those of the sweeps included. The next run makes new ones. */
  async release(): Promise<void> {
    for (const part of this.#parts) await part.release();
  }
}

/** Of each segment, in order, what it is the last to read or alone makes; outputs are the caller's. */
function lastReads(segments: readonly Segment[], outputs: readonly Tensor[]): Tensor[][] {
  const later = new Set(outputs);
  return segments
    .toReversed()
    .map(({ crossing, outputs: made }) => {
      const spent = [...crossing, ...made].filter((t) => !later.has(t));
      for (const t of crossing) later.add(t);
      return spent;
    })
    .toReversed();
}
