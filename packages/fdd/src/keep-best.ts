/** Candidates that a run leaves on its way, and the choice among them by a suite on held-out data. */

import { existsSync, mkdirSync, readdirSync } from 'node:fs';
import { join } from 'node:path';

import {
  type Contestant,
  type Model,
  ModelRunner,
  type Params,
  type PluginLoader,
  type Sampler,
  type SuiteContext,
} from '@attune/core';
import {
  AttuneError,
  type NDArray,
  openSafetensors,
  Weights,
  writeSafetensors,
} from '@attune/engine';
import { z } from 'zod';

export const KeepBestConfig = z.strictObject({
  /** Steps between candidates. The untrained student and the last step are candidates, too. */
  every: z.int().positive(),
  /** A plugin's suite with its options: it decides which candidate becomes the result. */
  suite: z.looseObject({ use: z.string() }),
});
export type KeepBestConfig = z.infer<typeof KeepBestConfig>;

export interface Choice {
  /** The step after which the best candidate stood; 0 is the untrained student. */
  readonly step: number;
  readonly params: Params;
  /** The suite's report. */
  readonly text: string;
  readonly data: unknown;
}

/** What a choice runs on. */
export interface Stage {
  readonly student: Model;
  /** The student as it makes single frames. */
  readonly stills: Model;
  readonly sampling: Contestant['sampling'];
  readonly sampler: Sampler;
  readonly loader: PluginLoader;
  readonly context: SuiteContext;
}

type Shaped = (name: string) => readonly number[];

export class Candidates {
  readonly #folder: string;
  readonly #shapeOf: Shaped;

  /** `folder` is made at the first candidate. */
  constructor(folder: string, shapeOf: Shaped) {
    this.#folder = folder;
    this.#shapeOf = shapeOf;
  }

  /** Keeps these parameters as they stand after `step`; a resumed run writes the same again. */
  save(step: number, params: Params): void {
    mkdirSync(this.#folder, { recursive: true });
    writeSafetensors(
      join(this.#folder, `step-${String(step).padStart(8, '0')}.safetensors`),
      this.#arrays(params),
    );
  }

  /** The best of `start` (step 0) and all that were kept, by the suite's own order. */
  async choose(
    { suite }: KeepBestConfig,
    start: Params,
    { student, stills, sampling, sampler, loader, context }: Stage,
  ): Promise<Choice> {
    const { kind, options } = await loader.configured('suites', suite, 'keep_best.suite');
    const candidates = [{ step: 0, params: start }, ...this.#kept()];
    const runner = (model: Model, params: Params): ModelRunner =>
      new ModelRunner(
        {
          ...model,
          weights: Weights.overlay(model.weights, Weights.fromArrays(this.#arrays(params))),
        },
        context.runtime,
      );
    const contestants: Contestant[] = candidates.map(({ step, params }) => ({
      name: `step ${step}`,
      models: { stack: runner(student, params), stills: runner(stills, params) },
      sampling,
      sampler,
    }));
    const { text, data, order } = await kind.run(contestants, options, context);
    const best = candidates.find(({ step }) => `step ${step}` === order[0]);
    if (!best)
      throw new AttuneError(
        'BAD_SUITE',
        `The suite ${suite.use} names "${order[0]}" as the best, which is none of ${contestants.map(({ name }) => name).join(', ')}.`,
      );
    return { ...best, text, data };
  }

  #arrays(params: Params): Record<string, NDArray> {
    return Object.fromEntries(
      Object.entries(params).map(([name, data]) => [
        name,
        { dtype: 'f32', shape: this.#shapeOf(name), data },
      ]),
    );
  }

  #kept(): { readonly step: number; readonly params: Params }[] {
    if (!existsSync(this.#folder)) return [];
    const files = readdirSync(this.#folder).filter((name) => /^step-\d+\.safetensors$/.test(name));
    return files.toSorted().map((name) => {
      const file = openSafetensors(join(this.#folder, name));
      const params = [...file.tensors.keys()].map((key) => [
        key,
        file.read(key).data as Float32Array,
      ]);
      return { step: Number(/\d+/.exec(name)![0]), params: Object.fromEntries(params) as Params };
    });
  }
}
