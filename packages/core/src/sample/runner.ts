/** A model ready to run: programs compiled at first use for the sizes asked, prompts and pictures in and out. */

import { totalmem } from 'node:os';

import {
  AttuneError,
  type F32Array,
  i64,
  type NDArray,
  type Program,
  type Runtime,
} from '@attune/engine';

import { compile, type TraceRequest } from '../adapters/compose.ts';
import { standingFeeds } from '../adapters/feeds.ts';
import type { Latents, Model } from '../models/model.ts';
import { mix } from '../schedule/forms.ts';
import { inPieces } from './frames.ts';

type Feeds = Readonly<Record<string, NDArray>>;

/** A compiled net of a model. */
export interface Compiled {
  readonly program: Program;
  /** Strengths and live parameters, to be fed with every call. */
  readonly standing: Feeds;
}

/** Runs the nets of one model. Each call of other sizes compiles a program, kept until `release`. */
export class ModelRunner {
  readonly model: Model;
  readonly runtime: Runtime;
  readonly #programs = new Map<string, Compiled>();

  constructor(model: Model, runtime: Runtime) {
    this.model = model;
    this.runtime = runtime;
  }

  /** A program of one net, compiled once per request. Throws OUT_OF_MEMORY for what no run of it could hold. */
  program(request: TraceRequest): Compiled {
    const key = JSON.stringify(request);
    let compiled = this.#programs.get(key);
    if (!compiled) {
      const program = compile(this.model, request, { runtime: this.runtime });
      if (this.runtime.device === 'cpu') checkMemory(program.peak, request);
      compiled = { program, standing: standingFeeds(this.model, program) };
      this.#programs.set(key, compiled);
    }
    return compiled;
  }

  /** One call of a net. */
  async run(request: TraceRequest, feeds: Feeds): Promise<Record<string, NDArray>> {
    const { program, standing } = this.program(request);
    return program.run({ ...standing, ...feeds });
  }

  /** Prompts as [N, L, D], and which of them were longer than the encoder reads. */
  async encodeText(
    prompts: readonly string[],
  ): Promise<{ states: F32Array; truncated: readonly { prompt: string; length: number }[] }> {
    const { tokenizer } = this.model;
    if (!tokenizer || !this.model.nets.text_encoder)
      throw new AttuneError('NO_TEXT_ENCODER', 'The model has no text encoder with a tokenizer.');
    const encoded = prompts.map((prompt) => ({ prompt, ...tokenizer.encode(prompt) }));
    const L = tokenizer.maxLength;
    const ids = i64(
      encoded.flatMap((one) => one.ids),
      [prompts.length, L],
    );
    const dims = { B: prompts.length, F: 1, H: 1, W: 1, L };
    const out = await this.run({ net: 'text_encoder', dims }, { input_ids: ids });
    return {
      states: out.last_hidden_state as F32Array,
      truncated: encoded.filter(({ truncated }) => truncated),
    };
  }

  /** Pictures [N, 3, H, W] in [0, 1] → the diffusion model's latents. An autoencoder's own pixels are in [-1, 1]. */
  async encodeImages(pictures: F32Array): Promise<F32Array> {
    const [, , H, W] = pictures.shape;
    const { scale, shift } = this.latents;
    return inPieces(pictures, { most: atOnce(H * W) }, async (some) => {
      const dims = { B: some.shape[0], F: 1, H, W };
      const out = await this.run({ net: 'vae_encoder', dims }, { pixels: affine(some, 2, -1) });
      return affine(out.latents as F32Array, scale, -shift * scale);
    });
  }

  /** The diffusion model's latents → pictures [N, 3, H, W] in about [0, 1]. */
  async decodeLatents(latents: F32Array): Promise<F32Array> {
    const [, , H, W] = latents.shape;
    const { scale, shift, factor } = this.latents;
    return inPieces(latents, { most: atOnce(H * W * factor ** 2) }, async (some) => {
      const dims = { B: some.shape[0], F: 1, H, W };
      const raw = affine(some, 1 / scale, shift);
      const out = await this.run({ net: 'vae_decoder', dims }, { latents: raw });
      return affine(out.pixels as F32Array, 0.5, 0.5);
    });
  }

  /** How latents and pixels relate; an error where the model has no autoencoder. */
  get latents(): Latents {
    if (this.model.latents) return this.model.latents;
    throw new AttuneError('NO_VAE', 'The model has no autoencoder.');
  }

  /** Releases all programs. The next call compiles anew. */
  async release(): Promise<void> {
    for (const { program } of this.#programs.values()) await program.release();
    this.#programs.clear();
  }
}

/** Values that the machine cannot hold would end the process, or another one, without a word. */
function checkMemory(peak: number, { net, dims: { B, F, H, W } }: TraceRequest): void {
  const there = Math.min(totalmem(), process.constrainedMemory() || Infinity);
  if (peak <= there) return;
  const [want, have] = [peak, there].map((bytes) => `${(bytes / 2 ** 30).toFixed(1)} GiB`);
  throw new AttuneError(
    'OUT_OF_MEMORY',
    `One call of ${net} for ${B * F} pictures of ${H} × ${W} would hold ${want}, this machine has ${have}: make fewer frames at once (--frames, --window) or smaller ones (--size).`,
    { peak, there },
  );
}

/** Pixels that an autoencoder is given at once: one picture of 512², 64 of 64². */
const PIXELS_AT_ONCE = 2 ** 18;

const atOnce = (pixels: number): number => Math.max(1, Math.floor(PIXELS_AT_ONCE / pixels));

const affine = (x: F32Array, by: number, plus: number): F32Array =>
  plus === 0 ? mix({ cx: by, cp: 0 }, x, x) : { ...x, data: x.data.map((v) => v * by + plus) };
