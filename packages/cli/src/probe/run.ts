/** What a probe runs: one call, a rollout, or a guided sampling, forward or with gradients. */

import {
  checkpointKey,
  ddim,
  ddimPlan,
  ModelRunner,
  type NoiseSchedule,
  sample,
  strengthsAt,
  trainableInputs,
} from '@attune/core';
import { AttuneError, badArgument, f32, type NDArray, nearest, type Program } from '@attune/engine';
import { roll, sweepBack } from '@attune/fdd';

import { progress } from '../terminal.ts';
import { type Conditions, conditions } from './conditions.ts';
import { asClip, asRows, asType, expectShape, type Tensors } from './tensors.ts';

export interface Probed {
  readonly outputs: Tensors;
  /** By name without `grad.`. */
  readonly grads: Tensors;
}

export const partNets = {
  unet: 'unet',
  'vae-encoder': 'vae_encoder',
  'vae-decoder': 'vae_decoder',
  'text-encoder': 'text_encoder',
} as const;
export type PartName = keyof typeof partNets;

const mainInputs: Readonly<Record<PartName, string>> = {
  unet: 'sample',
  'vae-encoder': 'pixels',
  'vae-decoder': 'latents',
  'text-encoder': 'input_ids',
};

/** One part, once. */
export async function probeOnce(
  runner: ModelRunner,
  part: PartName,
  tensors: Tensors,
  cotangents: Tensors | undefined,
): Promise<Probed> {
  requireNet(runner, part);
  const net = partNets[part];
  const own = mainInputs[part];
  const text = part === 'unet' ? await encodeIds(runner, tensors) : undefined;
  const given = conditions(runner.model, text?.tensors ?? tensors, {
    net,
    main: { given: own, own },
  });
  const { program, standing } = runner.program({ net, dims: given.dims, shapes: given.shapes });
  const time = Number(tensors.timestep?.data[0] ?? 0);
  const feeds = { ...standing, ...strengthsAt(runner.model, program, time), ...given.feeds };
  if (!cotangents) return { outputs: layoutOf(await program.run(feeds), given, own), grads: {} };
  const seeds = seedsOf(program, cotangents);
  const wrt = targets(runner, program, given, tensors);
  const { outputs, grads } = await program.sweep(wrt).run(feeds, seeds);
  const all = { ...grads, ...(await text?.back(grads.encoder_hidden_states)) };
  return {
    outputs: layoutOf(outputs, given, own),
    grads: layoutOf(named(runner, all, tensors), given, own),
  };
}

/** DDIM along the times in `timesteps`, in their order; the last jump lands on x₀. */
export async function probeRollout(
  runner: ModelRunner,
  tensors: Tensors,
  cotangents: Tensors | undefined,
): Promise<Probed> {
  requireNet(runner, 'unet');
  const schedule = scheduleOf(runner);
  const { timesteps, ...others } = tensors;
  const times = readTimes(timesteps, schedule);
  const text = await encodeIds(runner, others);
  const given = conditions(runner.model, text?.tensors ?? others, {
    net: 'unet',
    main: { given: 'latents', own: 'sample' },
    without: ['timestep'],
  });
  const { program, standing } = runner.program({
    net: 'unet',
    dims: given.dims,
    shapes: given.shapes,
  });
  const { sample: noise, ...rest } = given.feeds;
  const feeds = { ...standing, ...rest };
  const steps = times.map((t, j) => ({
    feeds: { ...strengthsAt(runner.model, program, t), timestep: f32([t], [1]) },
    pairs: ddim(schedule, t, times[j + 1] ?? null),
  }));
  const wrt = cotangents ? targets(runner, program, given, others) : [];
  // A step's values are kept by its inputs alone, so that long rollouts fit into memory.
  const sweep = program.sweep(wrt, 'step');
  const rolled = await roll(sweep, feeds, f32(noise.data as Float32Array, noise.shape), steps);
  const outputs = layoutOf({ latents: rolled.latents }, given, 'latents');
  if (!cotangents) return { outputs, grads: {} };
  const seeds = checkedSeeds(cotangents, { latents: noise.shape });
  const { grads, noise: first } = await sweepBack(
    sweep,
    rolled,
    f32(seeds.latents.data as Float32Array, noise.shape),
  );
  const all = {
    ...grads,
    latents: first,
    ...(await text?.back(grads.encoder_hidden_states)),
  };
  return { outputs, grads: layoutOf(named(runner, all, tensors), given, 'latents') };
}

/** A guided DDIM run on the schedule's own times, as pipelines do it: uncond + g · (cond − uncond). */
export async function probeSampling(
  runner: ModelRunner,
  tensors: Tensors,
  { steps, guidance }: { readonly steps: number; readonly guidance: number },
): Promise<Probed> {
  requireNet(runner, 'unet');
  const { prompt_embeds: text, negative_prompt_embeds: none, ...others } = tensors;
  if (!text) throw missing('prompt_embeds');
  if (!none && guidance !== 1) throw missing('negative_prompt_embeds');
  const given = conditions(
    runner.model,
    { ...others, encoder_hidden_states: text },
    { net: 'unet', main: { given: 'latents', own: 'sample' }, without: ['timestep'] },
  );
  const { sample: noise, ...shared } = given.feeds;
  const uncond = asType(none ?? text, 'f32', 'negative_prompt_embeds');
  expectShape('negative_prompt_embeds', uncond, text.shape);
  const latents = await sample(runner, {
    dims: given.dims,
    branches: { text: shared, none: { ...shared, encoder_hidden_states: uncond } },
    guidance: {
      convention: 'uncond+s*delta',
      terms: [{ base: 'none', cond: 'text', scale: guidance }],
    },
    plan: ddimPlan(scheduleOf(runner), steps, { landing: 'config' }),
    noise: f32(noise.data as Float32Array, noise.shape),
    onStep: (done, of) => progress(`step ${done}/${of}`),
  });
  return { outputs: layoutOf({ latents }, given, 'latents'), grads: {} };
}

/** With `input_ids` in place of `encoder_hidden_states`, the stack's own text encoder goes before. */
async function encodeIds(runner: ModelRunner, tensors: Tensors) {
  const { input_ids: ids, ...rest } = tensors;
  if (!ids || tensors.encoder_hidden_states) return undefined;
  requireNet(runner, 'text-encoder');
  const given = conditions(
    runner.model,
    { input_ids: ids },
    { net: 'text_encoder', main: { given: 'input_ids', own: 'input_ids' } },
  );
  const { program, standing } = runner.program({ net: 'text_encoder', dims: given.dims });
  const feeds = { ...standing, ...given.feeds };
  const { last_hidden_state: states } = await program.run(feeds);
  const trained = trainableInputs(runner.model, program);
  return {
    tensors: { ...rest, encoder_hidden_states: states },
    back: async (cotangent: NDArray | undefined): Promise<Tensors> =>
      cotangent && trained.length
        ? (await program.sweep(trained).run(feeds, { last_hidden_state: cotangent })).grads
        : {},
  };
}

/** What a gradient is asked for: every given input of real numbers, and what trains. */
function targets(
  { model }: ModelRunner,
  program: Program,
  { feeds }: Conditions,
  given: Tensors,
): string[] {
  const inputs = Object.keys(feeds).filter(
    (name) =>
      feeds[name].dtype === 'f32' &&
      program.inputs.has(name) &&
      !(name === 'timestep' && given.timestep?.dtype !== 'f32'),
  );
  return [...inputs, ...trainableInputs(model, program)];
}

/** Gradients under the names their tensors have in files; those of inputs that nobody gave go. */
function named({ model }: ModelRunner, grads: Tensors, given: Tensors): Tensors {
  const heads = new Set([...Object.keys(model.nets), 'vae', ...model.adapters.map((a) => a.name)]);
  return Object.fromEntries(
    Object.entries(grads).flatMap(([name, value]) => {
      const isParam = name.includes('.') && heads.has(name.slice(0, name.indexOf('.')));
      if (!isParam && !given[name]) return [];
      return [[checkpointKey(model.adapters, name), value] as const];
    }),
  );
}

/** Cotangents by output, as rows; an unknown name or another shape is an error. */
function checkedSeeds(cotangents: Tensors, outputs: Readonly<Record<string, readonly number[]>>) {
  const seeds: Record<string, NDArray> = {};
  for (const [name, value] of Object.entries(cotangents)) {
    const shape = outputs[name];
    if (!shape)
      throw new AttuneError(
        'UNKNOWN_OUTPUT',
        `There is no output ${name} for a cotangent; nearest: ${nearest(name, Object.keys(outputs), 1).join()}.`,
        { name },
      );
    seeds[name] = asRows(asType(value, 'f32', name));
    expectShape(`the cotangent ${name}`, seeds[name], shape);
  }
  if (Object.keys(seeds).length > 0) return seeds;
  throw new AttuneError(
    'NO_COTANGENT',
    `The file of cotangents is empty; name them like the outputs: ${Object.keys(outputs).join(', ')}.`,
  );
}

const seedsOf = (program: Program, cotangents: Tensors): Record<string, NDArray> =>
  checkedSeeds(
    cotangents,
    Object.fromEntries(Object.entries(program.outputs).map(([name, { shape }]) => [name, shape])),
  );

/** Tensors of the main input's layout as clips again, where they came as clips. */
function layoutOf(tensors: Tensors, { frames }: Conditions, main: string): Tensors {
  if (frames === undefined || !tensors[main]) return tensors;
  return { ...tensors, [main]: asClip(tensors[main], frames) };
}

function readTimes(timesteps: NDArray | undefined, schedule: NoiseSchedule): number[] {
  if (!timesteps) throw missing('timesteps');
  const times = [...timesteps.data].map(Number);
  if (times.length === 0 || times.length > schedule.length)
    throw badArgument('timesteps', `${times.length} of them`, `give 1 to ${schedule.length}`);
  return times;
}

function scheduleOf({ model }: ModelRunner): NoiseSchedule {
  if (model.schedule) return model.schedule;
  throw new AttuneError(
    'NO_SCHEDULE',
    'The model has no scheduler/scheduler_config.json; give the stack a schedule.',
  );
}

function requireNet({ model }: ModelRunner, part: PartName): void {
  if (model.nets[partNets[part]]) return;
  throw new AttuneError(
    'NO_NET',
    `The model has no ${part}; it has ${Object.keys(model.nets).join(', ').replaceAll('_', '-')}.`,
    { part },
  );
}

const missing = (name: string) =>
  new AttuneError('MISSING_INPUT', `The input ${name} is missing.`, { name });
