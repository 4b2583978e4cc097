/** One teacher's adversarial term: its critic, the pull on generated latents, and the critic's learning. */

import { adamw, clipByGlobalNormInPlace, type OptimState } from '@attune/core';
import { AttuneError, type F32Array, type Rng, type Runtime, type Shape } from '@attune/engine';

import { Critic, type CriticTurn } from './critic.ts';
import type { ModelTeacher, ReadyTeacher } from './model-teacher.ts';
import { diffuse } from './sds.ts';
import { timeRange } from './teacher.ts';
import type { DataBatch } from './view.ts';

export interface CriticState {
  readonly params: Readonly<Record<string, Float32Array>>;
  readonly optimizer: OptimState;
}

export type CriticFigures = Pick<CriticTurn, 'loss' | 'real' | 'fake' | 'right'>;

export class Adversary {
  readonly #teacher: ModelTeacher;
  readonly #noiseShape: Shape;
  readonly #runtime: Runtime;
  readonly #rng: Rng;
  #critic: Critic | undefined;
  /** Samples of the teacher by sample ids: the same prompts meet the same reals. */
  readonly #pool = new Map<string, F32Array>();

  constructor(teacher: ModelTeacher, noiseShape: Shape, runtime: Runtime, rng: Rng) {
    this.#teacher = teacher;
    this.#noiseShape = noiseShape;
    this.#runtime = runtime;
    this.#rng = rng;
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
  initial(): CriticState {
    const params = this.#heads.initial(this.#rng.fork('init'));
    return { params, optimizer: adamw().init(params) };
  }

  /** The cotangent of weight · (−D) on x₀, scaled to a share of the SDS pull where the recipe says so. */
  async pull(
    ready: ReadyTeacher,
    x0: F32Array,
    { params }: CriticState,
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

  /** One step of the critic on generated latents and on the teacher's own for the same data. */
  async learn(
    ready: ReadyTeacher,
    batch: DataBatch,
    x0: F32Array,
    state: CriticState,
    rng: Rng,
    ids: readonly number[],
  ): Promise<{ state: CriticState; figures: CriticFigures }> {
    const config = this.#config;
    const real = await this.#real(batch, ids);
    // The same time and noise for both, so that only the latents differ.
    const fakes = this.#noised(x0, rng);
    const reals = this.#noised(real, rng);
    const turn = await this.#heads.learn(
      state.params,
      (await ready.features(reals.noisy, reals.t)).values,
      (await ready.features(fakes.noisy, fakes.t)).values,
    );
    const grads = { ...turn.grads };
    const size = clipByGlobalNormInPlace(grads, { max: 10 });
    if (!Number.isFinite(size)) return { state, figures: turn };
    const optimizer = adamw({ betas: config.betas, weightDecay: 0 });
    const full = Object.fromEntries(
      Object.entries(state.params).map(([name, p]) => [
        name,
        grads[name] ?? new Float32Array(p.length),
      ]),
    );
    const [params, moments] = optimizer.update(full, state.optimizer, state.params, config.lr);
    return { state: { params, optimizer: moments }, figures: turn };
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

  async #real(batch: DataBatch, ids: readonly number[]): Promise<F32Array> {
    const key = ids.join();
    const known = this.#pool.get(key);
    if (known) return known;
    const draw = this.#rng.fork('real', key);
    const made = await this.#teacher.draw(
      batch,
      draw.fork('noise').normals(this.#noiseShape),
      draw,
    );
    this.#pool.set(key, made);
    return made;
  }
}

function norm(data: Float32Array): number {
  let sum = 0;
  for (const value of data) sum += value * value;
  return Math.sqrt(sum / data.length);
}
