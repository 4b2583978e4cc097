/** How good an edited clip is: what the judges see, and how far it is from the exact twin. */

import { join } from 'node:path';

import { findPlugins, PluginLoader } from '@attune/core';
import type { F32Array, Runtime } from '@attune/engine';
import {
  flowValidity,
  maskedFeatureDistance,
  type Metric,
  motionRatio,
  outside,
  psnr,
  rowsOf,
  sharpness,
  warpError,
} from '@attune/eval';

import { homeFolder } from '../folders.ts';
import { Judge } from '../judge/judge.ts';
import { type Head, labelOf } from '../judge/labels.ts';
import type { TaskName } from '../world/catalogue.ts';
import { flowOf, framesOf, masksOf, type Trial } from './trial.ts';

/** The question whose answer a task changes. */
const headOf: Partial<Readonly<Record<TaskName, Head>>> = {
  add: 'hat',
  remove: 'hat',
  background: 'background',
  texture: 'texture',
  local: 'object',
  style: 'style',
  global: 'global',
};

/**
 * Measured on frames 1 and on; frame 0 is the edit teacher's own work and is reported apart. `kept`
 * is in percent and `motion` a ratio to the truth's.
 */
export const metrics = [
  { key: 'success', label: 'edit success', unit: '%', better: 'higher', digits: 1 },
  { key: 'feature', label: 'feature distance inside', better: 'lower', digits: 3 },
  { key: 'outside', label: 'PSNR outside', unit: 'dB', better: 'higher' },
  { key: 'flicker', label: 'warp error × 1000', better: 'lower' },
  { key: 'sharpness', label: 'gradient energy / truth', better: 'higher' },
  { key: 'motion', label: 'motion / truth' },
  { key: 'inside', label: 'PSNR inside', unit: 'dB' },
  { key: 'kept', label: 'object kept', unit: '%', digits: 1 },
  { key: 'first', label: 'edit success, frame 0', unit: '%', digits: 1 },
] as const satisfies readonly Metric[];

/** One value for each of `metrics`, in its unit. NaN: the task says nothing about it. */
export type Scores = Readonly<Record<(typeof metrics)[number]['key'], number>>;

/** Both judges. The feature net decides nothing but `feature`, so that no score leans on another. */
export class Scorer {
  readonly #judge: Judge;
  readonly #features: Judge;

  private constructor(judge: Judge, features: Judge) {
    this.#judge = judge;
    this.#features = features;
  }

  /** `models` is pocket's folder of models. */
  static async open(models: string, runtime: Runtime): Promise<Scorer> {
    const loader = new PluginLoader(findPlugins(homeFolder()));
    return new Scorer(
      await Judge.open(join(models, 'judge'), runtime, loader),
      await Judge.open(join(models, 'features'), runtime, loader),
    );
  }

  /**
   * Scores an edited clip against its trial's truth.
   *
   * @param frames the edited clip [F, 3, H, W] in [0, 1]
   */
  async score({ edit, target, mask }: Trial, frames: F32Array): Promise<Scores> {
    const truth = framesOf(target);
    const seen = await this.#judge.see(frames);
    const head = headOf[edit.task];
    const right = (about: Head, from: number, to: number): number =>
      share(seen[about].slice(from, to).map((label) => label === labelOf(edit.target, about)));
    const count = frames.shape[0];
    const [mine, other] = [frames, truth].map((clip) => rowsOf(clip, 1));
    const inside = rowsOf(mask, 1);
    const features = await Promise.all([mine, other].map((clip) => this.#features.features(clip)));
    const flow = flowOf(target);
    return {
      success: head ? right(head, 1, count) : Number.NaN,
      feature: maskedFeatureDistance([features[0]], [features[1]], inside),
      outside: psnr(mine, other, outside(inside)),
      inside: psnr(mine, other, inside),
      flicker: 1000 * warpError(frames, flow, flowValidity(flow, masksOf(target))),
      sharpness: sharpness(mine, other),
      motion: motionRatio(frames, truth),
      kept: right('object', 1, count),
      first: head ? right(head, 0, 1) : Number.NaN,
    };
  }

  /** Releases both judges. */
  async release(): Promise<void> {
    await this.#judge.release();
    await this.#features.release();
  }
}

const share = (list: readonly boolean[]): number =>
  (100 * list.filter(Boolean).length) / list.length;
