/** One teacher's adversarial term: its critic, the pull on generated latents, and the critic's learning. */

import { adamw, clipByGlobalNormInPlace, type Learner } from '@attune/core';
import {
  AttuneError,
  type F32Array,
  type NDArray,
  type Rng,
  type Runtime,
  type Shape,
} from '@attune/engine';

import { Critic, type CriticTurn } from './critic.ts';
import type { ModelTeacher, ReadyTeacher } from './model-teacher.ts';
import type { Pool } from './pool.ts';
import { diffuse } from './sds.ts';
import { timeRange } from './teacher.ts';
import type { DataBatch } from './view.ts';

export type CriticFigures = Pick<CriticTurn, 'loss' | 'real' | 'fake' | 'right'>;

/** Features of the teacher's own latents and of generated ones, under the same time and noise. */
export interface Evidence {
  readonly real: Readonly<Record<string, NDArray>>;
  readonly fake: Readonly<Record<string, NDArray>>;
}

export interface AdversaryOptions {
  readonly noiseShape: Shape;
  readonly rng: Rng;
  /** Samples of the teacher by sample ids: the same prompts meet the same reals. */
  readonly pool: Pool;
}

export class Adversary {
  readonly #teacher: ModelTeacher;
  readonly #noiseShape: Shape;
  readonly #runtime: Runtime;
  readonly #rng: Rng;
  readonly #pool: Pool;
  #critic: Critic | undefined;

  constructor(
    teacher: ModelTeacher,
    runtime: Runtime,
    { noiseShape, rng, pool }: AdversaryOptions,
  ) {
    this.#teacher = teacher;
    this.#noiseShape = noiseShape;
    this.#runtime = runtime;
    this.#rng = rng;
    this.#pool = pool;
  }

  /** Makes the heads; the batch tells the features' shapes. */
  async open(batch: DataBatch): Promise<void> {
    this.#critic ??= new Critic(
      this.#teacher.id,
      await this.#teacher.featureShapes(batch),
      this.#teacher.rows,
      this.#config,
      this.#runtime,
    );
  }

  /** Fresh heads' parameters. */
  initial(): Learner {
    const params = this.#heads.initial(this.#rng.fork('init'));
    return { params, optimizer: adamw().init(params) };
  }

  /** The cotangent of weight · (−D) on x₀, scaled to a share of the SDS pull where the recipe says so. */
  async pull(
    ready: ReadyTeacher,
    x0: F32Array,
    { params }: Learner,
    rng: Rng,
    { weight, beside }: { readonly weight: number; readonly beside: F32Array | undefined },
  ): Promise<F32Array> {
    const config = this.#config;
    const { noisy, t, alpha } = this.#noised(x0, rng);
    const tape = await ready.features(noisy, t);
    const { cotangents } = await this.#heads.judge(params, tape.values);
    const g = await tape.back(cotangents);
    const target = config.balance && beside ? config.balance * norm(beside.data) : 0;
    const size = norm(g.data) * alpha;
    const scale = target > 0 && size > 0 ? (target / size) * alpha : weight * alpha;
    return { ...g, data: g.data.map((value) => value * scale) };
  }

  /** What the critic learns from: the teacher's samples for these data ids, and generated latents. */
  async evidence(
    ready: ReadyTeacher,
    batch: DataBatch,
    x0: F32Array,
    rng: Rng,
    ids: readonly number[],
  ): Promise<Evidence> {
    const real = await this.#real(batch, ids);
    // The same time and noise for both, so that only the latents differ.
    const fakes = this.#noised(x0, rng);
    const reals = this.#noised(real, rng);
    return {
      real: (await ready.features(reals.noisy, reals.t)).values,
      fake: (await ready.features(fakes.noisy, fakes.t)).values,
    };
  }

  /** One step of the critic. */
  async learn(
    state: Learner,
    { real, fake }: Evidence,
  ): Promise<{ state: Learner; figures: CriticFigures }> {
    const config = this.#config;
    const { grads: found, ...figures } = await this.#heads.learn(state.params, real, fake);
    const grads = { ...found };
    const size = clipByGlobalNormInPlace(grads, { max: 10 });
    if (!Number.isFinite(size)) return { state, figures };
    const optimizer = adamw({ betas: config.betas, weightDecay: 0 });
    const full = Object.fromEntries(
      Object.entries(state.params).map(([name, p]) => [
        name,
        grads[name] ?? new Float32Array(p.length),
      ]),
    );
    const [params, moments] = optimizer.update(full, state.optimizer, state.params, config.lr);
    return { state: { params, optimizer: moments }, figures };
  }

  async release(): Promise<void> {
    await this.#critic?.release();
  }

  get #heads(): Critic {
    if (!this.#critic) throw new AttuneError('INTERNAL', 'internal: a critic was not opened.');
    return this.#critic;
  }

  get #config() {
    const { critic } = this.#teacher.config;
    if (!critic) throw new AttuneError('INTERNAL', 'internal: an adversary without a critic.');
    return critic;
  }

  #noised(x0: F32Array, rng: Rng): { noisy: F32Array; t: number; alpha: number } {
    const { schedule } = this.#teacher;
    const [first, last] = timeRange(schedule, this.#config.range);
    const draw = rng.fork('noised');
    const t = first + draw.int(last - first + 1);
    const level = schedule.level(t);
    const noise = draw.normals(x0.shape);
    return { noisy: { ...x0, data: diffuse(x0.data, noise.data, level) }, t, alpha: level.alpha };
  }

  #real(batch: DataBatch, ids: readonly number[]): Promise<F32Array> {
    const key = ids.join('-');
    return this.#pool.get(key, () => {
      const draw = this.#rng.fork('real', key);
      return this.#teacher.draw(batch, draw.fork('noise').normals(this.#noiseShape), draw);
    });
  }
}

function norm(data: Float32Array): number {
  let sum = 0;
  for (const value of data) sum += value * value;
  return Math.sqrt(sum / data.length);
}
