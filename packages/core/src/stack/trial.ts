/** A stack run on fixed small inputs, with any of its adapters switched off: the ground of its proof and report. */

import {
  AttuneError,
  f32,
  type F32Array,
  i64,
  mul,
  type NDArray,
  Program,
  Rng,
  type Runtime,
  sameShape,
  type Shape,
  square,
  sum,
  type Tensor,
} from '@attune/engine';

import { type ModelTrace, traceNet } from '../adapters/compose.ts';
import { standingFeeds } from '../adapters/feeds.ts';
import { scaleGates } from '../adapters/strength.ts';
import type { Model } from '../models/model.ts';
import type { Dims } from '../models/net.ts';
import type { Added } from '../nn/scope.ts';

/** Side of the latents: a UNet may halve them four times. */
const SIDE = 16;
/** Tokens of the text, where no adapter's words need more. */
const TOKENS = 8;
/** The share of the training times at which the nets are run. */
const TIME = 0.5;

export type Values = Readonly<Record<string, F32Array>>;

/** What a run gives. */
export interface Outcome {
  /** Outputs of the nets by `<net>.<output>`; the text encoder's only where there is no UNet to read them. */
  readonly outputs: Values;
  /** Values at the sites that were asked for, by `kind:address`. */
  readonly sites: Values;
  /** Σ δ² of each adapter at each of its sites, gate included, and Σ value² of what came of it. */
  readonly energies: readonly Energy[];
}

export interface Energy extends Pick<Added, 'adapter' | 'site'> {
  readonly delta: number;
  readonly value: number;
}

/** The order of nets: what the text encoder makes is the UNet's input. */
const rank = (net: string): number => (net === 'text_encoder' ? 0 : 1);

const energy = (x: Tensor): Tensor => sum(square(x));

interface Part {
  readonly net: string;
  readonly program: Program;
  readonly added: readonly Added[];
  readonly sites: readonly string[];
  /** Names of the net's own outputs. */
  readonly outputs: readonly string[];
}

/**
 * Compiled once: an adapter is switched off by its gates, which are inputs, so nothing is compiled again and
 * what is off adds exactly nothing.
 */
export class Trial {
  readonly model: Model;
  readonly #dims: Dims;
  readonly #parts: readonly Part[];

  /** `wanted` says which sites a run returns. The nets are those on which an adapter acts, and the UNet. */
  constructor(model: Model, runtime: Runtime, wanted: (site: string) => boolean = () => false) {
    this.model = model;
    this.#dims = dimsOf(model);
    this.#parts = Object.keys(model.nets)
      .toSorted((a, b) => rank(a) - rank(b))
      .flatMap((net) => {
        const found = traceNet(model, { net, dims: this.#dims });
        if (net !== 'unet' && net !== 'text_encoder' && found.trace.acted.size === 0) return [];
        return [partOf(net, found, model, runtime, wanted)];
      });
  }

  /** Runs the nets; adapters named in `off` add nothing. Throws NOT_FINITE where NaN or infinity comes out. */
  async run(off: ReadonlySet<string> = new Set()): Promise<Outcome> {
    const outputs: Record<string, F32Array> = {};
    const sites: Record<string, F32Array> = {};
    const energies: Energy[] = [];
    let text: NDArray | undefined;
    for (const { net, program, ...part } of this.#parts) {
      const got = (await program.run(this.#feeds(program, off, text))) as Values;
      if (net === 'text_encoder') text = got.last_hidden_state;
      if (net !== 'text_encoder' || !this.model.nets.unet)
        for (const name of part.outputs) outputs[`${net}.${name}`] = finite(got[name], net, off);
      for (const site of part.sites) sites[site] = got[site];
      for (const [i, { adapter, site }] of part.added.entries())
        energies.push({
          adapter,
          site,
          delta: got[`delta.${i}`].data[0],
          value: got[`value.${i}`].data[0],
        });
    }
    return { outputs, sites, energies };
  }

  async release(): Promise<void> {
    for (const { program } of this.#parts) await program.release();
  }

  #feeds(program: Program, off: ReadonlySet<string>, text?: NDArray): Record<string, NDArray> {
    const feeds = standingFeeds(this.model, program);
    // A strength that changes over the steps counts as it is where the adapter acts.
    for (const adapter of this.model.adapters)
      for (const [name, scale] of scaleGates(adapter))
        for (const gate of [name, `${name}.scale`])
          if (program.inputs.has(gate)) feeds[gate] = f32([off.has(adapter.name) ? 0 : scale], []);
    for (const [name, { shape, dtype }] of program.inputs) {
      if (feeds[name]) continue;
      if (name === 'encoder_hidden_states' && text && sameShape(text.shape, shape))
        feeds[name] = text;
      else feeds[name] = dtype === 'i64' ? this.#ids(name, shape) : this.#value(name, shape);
    }
    return feeds;
  }

  #value(name: string, shape: Shape): NDArray {
    if (name !== 'timestep') return Rng.of(11).fork(name).normals(shape);
    const times = this.model.schedule?.length ?? 1000;
    return f32(new Float32Array(shape[0]).fill(Math.floor(times * TIME)), shape);
  }

  /** Of a text: the adapters' own words, then small ids, which every vocabulary has. Of a label: the first. */
  #ids(name: string, shape: Shape): NDArray {
    const size = shape.reduce((a, b) => a * b, 1);
    const own = name === 'input_ids' ? wordIds(this.model) : [];
    return i64(
      Array.from({ length: size }, (_, i) => (name === 'input_ids' ? (own[i] ?? i % 16) : 0)),
      shape,
    );
  }
}

function dimsOf(model: Model): Dims {
  const frames = model.adapters.some(({ mixesFrames }) => mixesFrames) ? 2 : 1;
  const L = Math.max(TOKENS, wordIds(model).length + 2);
  return { B: 1, F: frames, H: SIDE, W: SIDE, L };
}

const wordIds = ({ adapters, tokenizer }: Model): number[] =>
  adapters.flatMap(({ words = {} }) =>
    Object.entries(words).flatMap(([word, length]) => {
      const first = tokenizer?.idOf(word);
      return first === undefined ? [] : Array.from({ length }, (_, i) => first + i);
    }),
  );

function partOf(
  net: string,
  { traced, trace }: ModelTrace,
  model: Model,
  runtime: Runtime,
  wanted: (site: string) => boolean,
): Part {
  const outputs: Record<string, Tensor> = { ...traced.outputs };
  for (const [i, { delta, gate, site }] of trace.added.entries()) {
    outputs[`delta.${i}`] = energy(gate ? mul(delta, gate) : delta);
    outputs[`value.${i}`] = energy(trace.sites.get(site)!);
  }
  const sites = [...trace.sites.keys()].filter(wanted);
  for (const site of sites) outputs[site] = trace.sites.get(site)!;
  return {
    net,
    program: new Program({ ...traced, outputs }, { runtime, weights: model.weights }),
    added: trace.added,
    sites,
    outputs: Object.keys(traced.outputs),
  };
}

function finite(array: F32Array, net: string, off: ReadonlySet<string>): F32Array {
  if (array.data.every(Number.isFinite)) return array;
  throw new AttuneError(
    'NOT_FINITE',
    `The ${net} gives NaN or infinity${off.size ? ` without ${[...off].join(', ')}` : ''}: a weight file is damaged, or its training diverged (attune inspect --deep finds it).`,
    { net },
  );
}

/** ‖got − want‖ / ‖want‖, the largest over all outputs. */
export const change = (got: Values, want: Values): number =>
  Math.max(...Object.entries(want).map(([name, array]) => far(got[name].data, array.data)));

function far(got: Float32Array, want: Float32Array): number {
  let [difference, whole] = [0, 0];
  for (let i = 0; i < want.length; i++) {
    difference += (got[i] - want[i]) ** 2;
    whole += want[i] ** 2;
  }
  return Math.sqrt(difference / (whole || 1));
}

/** The block of an address: `unet.down_blocks.0`, `unet.mid_block`, `unet.conv_in`, `text_encoder.text_model`. */
export function blockOf(site: string): string {
  const parts = site.slice(site.indexOf(':') + 1).split('.');
  return parts.slice(0, /^\d+$/.test(parts[2] ?? '') ? 3 : 2).join('.');
}
