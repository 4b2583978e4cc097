/** A frozen stack as a teacher: guided predictions, features for a critic, samples of its own. */

import {
  clipStrengths,
  ddimPlan,
  type Dims,
  type Guidance,
  guidanceBranches,
  guide,
  type ModelRunner,
  type NoiseSchedule,
  type Rows,
  sample,
  strengthsAt,
} from '@attune/core';
import {
  AttuneError,
  type Clip,
  type F32Array,
  f32,
  type NDArray,
  type Program,
  type Rng,
  type Shape,
  type Sweep,
  type Tape,
} from '@attune/engine';

import type { TeacherConfig } from './config.ts';
import type { Denoiser, Origin } from './teacher.ts';
import { type DataBatch, fieldOf, firstRows, look, type View } from './view.ts';

/** The condition under which nothing is left out. */
const FULL = 'full';

interface Lane {
  readonly name: string;
  readonly program: Program;
  readonly feeds: Readonly<Record<string, NDArray>>;
  readonly clip: Clip;
}

/** What a teacher sees of a batch, and which of its inputs are left out of every branch. */
interface Shown {
  readonly view: View;
  readonly drop?: readonly string[];
}

/** A teacher that has seen a batch: clip-rate values are computed, denoising can begin. */
export interface ReadyTeacher extends Denoiser {
  /** Values of the critic's sites at x_t, and the way back to x_t. */
  features(noisy: F32Array, t: number): Promise<FeatureTape>;
}

export interface FeatureTape {
  readonly values: Readonly<Record<string, NDArray>>;
  /** Cotangents of the values → cotangent of x_t. */
  back(cotangents: Readonly<Record<string, F32Array>>): Promise<F32Array>;
}

/**
 * A stack of which nothing trains. The constructor throws NO_SCHEDULE for a backbone that does not say its
 * noise, TEACHER_TRAINS where an adapter trains.
 */
export class ModelTeacher {
  readonly id: string;
  readonly config: TeacherConfig;
  readonly schedule: NoiseSchedule;
  readonly #runner: ModelRunner;
  readonly #dims: Dims;

  constructor(id: string, runner: ModelRunner, config: TeacherConfig, dims: Dims) {
    const { schedule, adapters } = runner.model;
    if (!schedule)
      throw new AttuneError('NO_SCHEDULE', `The teacher ${id} has no scheduler_config.json.`, {
        id,
      });
    const trains = adapters.find(({ train }) => train);
    if (trains)
      throw new AttuneError(
        'TEACHER_TRAINS',
        `The teacher ${id} contains ${trains.name}, which trains: a teacher is frozen; leave it out.`,
        { id, adapter: trains.name },
      );
    this.id = id;
    this.config = config;
    this.schedule = schedule;
    this.#runner = runner;
    this.#dims = dims;
  }

  /** Clips and frames of a batch. */
  get rows(): Rows {
    return { B: this.#dims.B, F: this.#dims.F };
  }

  /** Reads a batch: prompts encoded, clip-rate parts run for each branch. */
  async ready(batch: DataBatch, shown: Shown = this.config): Promise<ReadyTeacher> {
    const guidance = this.#guidance(this.config.guidance.scale);
    const lanes: Lane[] = [];
    for (const name of guidanceBranches(guidance)) lanes.push(await this.#lane(name, batch, shown));
    const frames = this.#dims.F;
    return {
      schedule: this.schedule,
      predict: async (noisy, t) => {
        const outputs: Record<string, F32Array> = {};
        for (const { name, program, feeds, clip } of lanes) {
          const at = this.#at(program, noisy, t, name);
          const out = await program.step(clip, { ...feeds, ...at });
          outputs[name] = out.sample as F32Array;
        }
        return guide(outputs, guidance, frames);
      },
      features: async (noisy, t) => this.#features(batch, noisy, t),
    };
  }

  /** The originals of a batch, and the teacher that has read them; undefined where the recipe has no delta. */
  async origin({ text, arrays }: DataBatch): Promise<Origin | undefined> {
    const { delta, view } = this.config;
    if (!delta) return undefined;
    const x0 = await this.#runner.encodeImages(fieldOf(arrays, delta.of, 'delta.of') as F32Array);
    const first = arrays.first_frame && { first_frame: firstRows(x0, this.rows) };
    const shown = { view: { ...view, ...delta.view }, drop: delta.drop };
    return { denoiser: await this.ready({ text, arrays: { ...arrays, ...first } }, shown), x0 };
  }

  /** Samples of its own for a batch, from unit noise. */
  async draw(batch: DataBatch, noise: F32Array, rng: Rng): Promise<F32Array> {
    const { steps, guidance: scale = this.config.guidance.scale } = this.config.sampling;
    const guidance = this.#guidance(scale);
    const branches: Record<string, Record<string, NDArray>> = {};
    for (const name of guidanceBranches(guidance))
      branches[name] = { ...(await this.#view(name, batch)) };
    return sample(this.#runner, {
      dims: this.#dims,
      branches,
      guidance,
      plan: ddimPlan(this.schedule, steps, { spacing: 'trailing' }),
      noise,
      rng,
    });
  }

  /** Releases its runner's programs. */
  release(): Promise<void> {
    return this.#runner.release();
  }

  /** Shapes of the critic's features. */
  async featureShapes(batch: DataBatch): Promise<Map<string, Shape>> {
    const { program } = await this.#featureProgram(batch);
    return new Map(Object.entries(program.outputs).map(([site, t]) => [site, t.shape]));
  }

  #guidance(scale: number): Guidance {
    const { rescale, before } = this.config.guidance;
    return {
      convention: 'uncond+s*delta',
      terms: [
        ...(before ? [{ base: 'nothing', cond: 'none', scale: before.scale }] : []),
        { base: 'none', cond: FULL, scale },
      ],
      rescalePhi: rescale,
    };
  }

  #view(
    branch: string,
    batch: DataBatch,
    { view, drop: always = [] }: Shown = this.config,
  ): Promise<Readonly<Record<string, NDArray>>> {
    const { drop, before } = this.config.guidance;
    const left = { nothing: before?.drop ?? [], none: drop }[branch] ?? [];
    return look(this.#runner, view, batch, [...left, ...always]);
  }

  async #lane(name: string, batch: DataBatch, shown: Shown): Promise<Lane> {
    const view = await this.#view(name, batch, shown);
    const { program, standing } = this.#runner.program({
      net: 'unet',
      dims: this.#dims,
      shapes: shapesOf(view),
    });
    const strengths = clipStrengths(this.#runner.model, program, 0, name === FULL);
    const feeds = { ...standing, ...strengths, ...view };
    return { name, program, feeds, clip: await program.clip(feeds) };
  }

  async #featureProgram(batch: DataBatch): Promise<{
    program: Program;
    feeds: Readonly<Record<string, NDArray>>;
  }> {
    if (!this.config.critic)
      throw new AttuneError('INTERNAL', `internal: the teacher ${this.id} has no critic.`);
    const view = await this.#view(FULL, batch);
    const { program, standing } = this.#runner.program({
      net: 'unet',
      dims: this.#dims,
      shapes: shapesOf(view),
      outputs: this.config.critic.features,
    });
    return { program, feeds: { ...standing, ...view } };
  }

  #at(program: Program, noisy: F32Array, t: number, branch: string): Record<string, NDArray> {
    const strengths = strengthsAt(this.#runner.model, program, t, branch === FULL);
    return { ...strengths, sample: noisy, timestep: f32([t], [1]) };
  }

  readonly #sweeps = new Map<Program, Sweep>();

  async #features(batch: DataBatch, noisy: F32Array, t: number): Promise<FeatureTape> {
    const { program, feeds } = await this.#featureProgram(batch);
    let sweep = this.#sweeps.get(program);
    if (!sweep) this.#sweeps.set(program, (sweep = program.sweep(['sample'], 'segment')));
    const clip: Tape = await sweep.clip(feeds);
    const at = this.#at(program, noisy, t, FULL);
    const { outputs, tape } = await sweep.step(clip, { ...feeds, ...at });
    const back = sweep;
    return {
      values: outputs,
      back: async (cotangents) => (await back.back(tape, cotangents, new Map())).sample,
    };
  }
}

const shapesOf = (feeds: Readonly<Record<string, NDArray>>): Record<string, Shape> =>
  Object.fromEntries(Object.entries(feeds).map(([name, { shape }]) => [name, shape]));
