/** A stack file as a model: the backbone loaded, each adapter created by its plugin. */

import { existsSync, statSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';

import { AttuneError, Weights } from '@attune/engine';

import { compose } from '../adapters/compose.ts';
import { pulled } from '../hub/cache.ts';
import { isHubReference } from '../hub/reference.ts';
import { readJson, readWeights } from '../models/folder.ts';
import { loadModel } from '../models/load.ts';
import type { Model } from '../models/model.ts';
import type { PluginLoader } from '../plugins/loader.ts';
import type { AdapterFile } from '../plugins/plugin.ts';
import { NoiseSchedule } from '../schedule/noise.ts';
import type { Plan, Sampler } from '../schedule/sampler.ts';
import { checkFile, type Sampling, type StackFile } from './schema.ts';
import { type ReadMask, readStrength, readTensorMask } from './strength.ts';

export interface OpenOptions {
  /** Accept backbone parts without weights, to be initialised. */
  readonly fresh?: boolean;
  /** The stack as it makes single frames: without adapters that mix frames or say `stills: false`. */
  readonly stills?: boolean;
  /** Reads the masks of strengths. Default: .safetensors files with a tensor `mask`. */
  readonly readMask?: ReadMask;
}

/** Opens a stack; paths are relative to `folder`, or name what was pulled from a hub (`hf:owner/name`). */
export async function openStack(
  stack: StackFile,
  folder: string,
  loader: PluginLoader,
  { fresh = false, stills = false, readMask = readTensorMask }: OpenOptions = {},
): Promise<Model> {
  const { path, config } = await backbonePaths(stack, folder, loader);
  const loaded = await fromHub(stack.backbone, () =>
    loadModel(path, { fresh, loader, ...(config === undefined ? {} : { config }) }),
  );
  let model: Model = {
    ...loaded,
    ...(stack.train ? { train: stack.train } : {}),
    ...(stack.schedule === 'default'
      ? {}
      : { schedule: NoiseSchedule.of(stack.schedule, 'schedule') }),
  };
  for (const { name, use, from, strength, train, stills: still, ...rest } of stack.adapters) {
    if (stills && still === false) continue;
    const kind = await loader.get('adapters', use);
    const options = checkFile(kind.options, rest, `adapter ${name ?? use}`);
    const file =
      from === undefined
        ? undefined
        : await fromHub(from, () => readAdapterFile(placeOf(from, folder)));
    const adapter = kind.create(
      {
        name: name ?? use.slice(use.indexOf('/') + 1),
        model,
        ...(file ? { file } : {}),
        ...(strength === undefined
          ? {}
          : {
              strength: await readStrength(strength, (mask) => resolve(folder, mask), readMask),
            }),
        ...(train === undefined ? {} : { train }),
      },
      options,
    );
    if (!(stills && adapter.mixesFrames)) model = compose(model, adapter);
  }
  return model;
}

/** The sampler that `sampling` of a stack or a command names. Throws BAD_PLAN where its plan cannot be run. */
export async function openSampler(
  named: Sampling['sampler'],
  loader: PluginLoader,
): Promise<Sampler> {
  const entry = typeof named === 'string' ? { use: named } : named;
  const { kind, options } = await loader.configured('samplers', entry, `sampler ${entry.use}`);
  const sampler = kind.create(options);
  return (schedule, steps) => checkPlan(sampler(schedule, steps), entry.use);
}

function checkPlan(plan: Plan, use: string): Plan {
  let remembers = false;
  const fault = plan.steps.flatMap((step, i) => {
    const { memory } = step;
    const numbers = [step.t, step.cx, step.cp, step.cn, step.cm ?? 0];
    const forgotten = step.cm && !remembers ? [`step ${i} has nothing to remember`] : [];
    remembers = memory !== undefined;
    return [...numbers, memory?.cx ?? 0, memory?.cp ?? 0].every(Number.isFinite)
      ? forgotten
      : [`step ${i} is not finite`];
  })[0];
  if (fault === undefined && plan.steps.length > 0 && Number.isFinite(plan.start)) return plan;
  throw new AttuneError(
    'BAD_PLAN',
    `The sampler ${use} made a plan that cannot be run: ${fault ?? 'it has no steps or no finite start'}. Take another sampler, or other settings for it.`,
    { use },
  );
}

/** Where a path of a stack file leads: relative to its folder, or into the cache of a hub. */
const placeOf = (path: string, folder: string): string => resolve(folder, pulled(path));

/** Reads what a path names. Where a hub's snapshot lacks a file, the cache may hold a part of it: that is said. */
async function fromHub<T>(path: string, read: () => T | Promise<T>): Promise<T> {
  try {
    return await read();
  } catch (error) {
    const lacks = AttuneError.is(error) && /^(MISSING_FILE|NO_MODEL|NO_WEIGHTS)$/.test(error.code);
    if (!isHubReference(path) || !lacks) throw error;
    const { code, message, facts } = error;
    const fix = `The cache may hold a part of it only; the rest comes with: attune pull ${path}`;
    throw new AttuneError(code, `${message} ${fix}`, facts);
  }
}

/** Where a stack's backbone lies, and the folder whose configs it takes. */
export async function backbonePaths(
  { backbone, config }: Pick<StackFile, 'backbone' | 'config'>,
  folder: string,
  loader: PluginLoader,
): Promise<{ readonly path: string; readonly config?: string }> {
  const bundled = loader.ids('backbones').includes(backbone);
  return {
    path: bundled ? (await loader.get('backbones', backbone)).folder() : placeOf(backbone, folder),
    ...(config === undefined ? {} : { config: placeOf(config, folder) }),
  };
}

/** Names that a checkpoint has beside its config, in a folder of its own. */
const standard = /^(diffusion_pytorch_model|model|adapter_model)\b/;

/** A checkpoint file, or a folder with one and its config; the file of such a folder stands for it. */
export function readAdapterFile(path: string): AdapterFile {
  const whole = existsSync(path) && statSync(path).isDirectory();
  const folder = whole ? path : standard.test(basename(path)) ? dirname(path) : undefined;
  const config =
    folder === undefined
      ? undefined
      : ['config.json', 'adapter_config.json']
          .map((name) => join(folder, name))
          .find((file) => existsSync(file));
  const weights = whole ? readWeights(path) : Weights.fromFile(path);
  return {
    path,
    weights,
    metadata: whole ? {} : weights.metadata,
    ...(config ? { config: readJson(config) } : {}),
  };
}
