/** A training recipe as a run in a folder. */

import { f32, type F32Array, Rng, type Runtime, Weights } from '@attune/engine';
import { stringify } from 'yaml';

import { materialize } from '../adapters/compose.ts';
import type { Model } from '../models/model.ts';
import { nominalDims } from '../models/net.ts';
import { pattern } from '../nn/address.ts';
import type { PluginLoader } from '../plugins/loader.ts';
import { generate } from '../sample/generate.ts';
import { ModelRunner } from '../sample/runner.ts';
import { openStack } from '../stack/open.ts';
import { drive, type Outcome, type RunRequest } from './drive.ts';
import { exportTrained } from './export.ts';
import { packLearner, type Params, unpackLearner } from './learner.ts';
import type { Samples, TrainRecipe } from './recipe.ts';
import { type StepReport, train, type TrainState } from './run.ts';

export interface RunOptions extends RunRequest<StepReport> {
  readonly loader: PluginLoader;
  readonly runtime: Runtime;
  /** Paths in the recipe are relative to this folder. */
  readonly folder: string;
  /** Takes what the recipe's `samples` asked for after a step: pictures [B·F, 3, H, W] in about [0, 1]. */
  readonly onSamples?: (
    step: number,
    pixels: F32Array,
    prompts: readonly string[],
  ) => Promise<void>;
}

/** Runs a recipe to its end or until the signal. */
export async function runTraining(
  recipe: TrainRecipe,
  { loader, runtime, folder, onSamples, ...request }: RunOptions,
): Promise<Outcome<TrainState>> {
  const opened = await openStack(recipe.stack, folder, loader, { fresh: true });
  const fresh = recipe.fresh.map(pattern);
  const { train: config } = recipe;
  const model = materialize(opened, {
    dims: nominalDims,
    seed: config.seed,
    anew: (name) => fresh.some((one) => one.test(name)),
  });
  const aim = await loader.configured('objectives', recipe.objective, 'objective');
  const objective = aim.kind.create(aim.options, model);
  const source = await loader.configured('data', recipe.data, 'data');
  const data = await source.kind.create(source.options, model);
  const unseen = config.validation?.data;
  const other = unseen && (await loader.configured('data', unseen, 'train.validation.data'));
  const heldOut = other ? { heldOut: await other.kind.create(other.options, model) } : {};
  const rng = Rng.of(config.seed);
  return drive<TrainState, StepReport>({
    ...request,
    recipe: stringify(recipe),
    checkpoint: recipe.checkpoint,
    total: config.steps,
    seed: config.seed,
    iterate: async function* (from) {
      const { samples } = recipe;
      const show = async (step: number, params: Params): Promise<void> => {
        if (!samples || !onSamples) return;
        const pixels = await sampled(model, params, samples, { runtime, frames: data.dims.F ?? 1 });
        await onSamples(step, pixels, samples.prompts);
      };
      if (!from) await show(0, {});
      const whole = { model, objective, data, ...heldOut, config, runtime, rng };
      for await (const turn of train(whole, from)) {
        const { step, ema, params } = turn.state;
        if (samples && (step % samples.every === 0 || step === config.steps))
          await show(step, ema ?? params);
        yield turn;
      }
    },
    pack: (state) => ({
      step: state.step,
      arrays: packLearner(state, { shapeOf: (name) => model.weights.entry(name).shape }),
      state: { updates: state.optimizer.step },
    }),
    unpack: ({ step, arrays, state }) => ({
      step,
      ...unpackLearner(arrays, (state as { updates: number }).updates),
    }),
    line: ({ step, loss, validationLoss, metrics, gradNorm, lr }) =>
      step === 1 || step % recipe.log_every === 0 || validationLoss !== undefined
        ? { ...metrics, step, loss, validation_loss: validationLoss, grad_norm: gradNorm, lr }
        : undefined,
    finish: (state, target, metadata) =>
      exportTrained(model, state.ema ?? state.params, target, {
        metadata,
        dtype: recipe.save,
      }),
  });
}

/** What the model makes of the prompts with these values of what trains. */
async function sampled(
  model: Model,
  params: Params,
  { prompts, steps, guidance, seed }: Samples,
  { runtime, frames }: { readonly runtime: Runtime; readonly frames: number },
): Promise<F32Array> {
  const { weights } = model;
  const now = Object.entries(params).map(([name, data]) => {
    const { shape } = weights.entry(name);
    return [name, f32(data, shape)] as const;
  });
  const overlaid = Weights.overlay(weights, Weights.fromArrays(Object.fromEntries(now)));
  const runner = new ModelRunner({ ...model, weights: overlaid }, runtime);
  try {
    const rng = Rng.of(seed).fork('noise');
    const { latents } = await generate(runner, prompts, { steps, guidance, rng, frames });
    return await runner.decodeLatents(latents);
  } finally {
    await runner.release();
  }
}
