/** Trained weights in the layout of their kind: model folders for nets, one file per adapter. */

import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { type NDArray, toF32, toHalf, writeSafetensors } from '@attune/engine';

import { inventory, trainability } from '../adapters/compose.ts';
import type { Model } from '../models/model.ts';
import { nominalDims } from '../models/net.ts';
import { trainingPart } from '../schedule/noise.ts';
import { TRAINED_WITH } from '../stack/declared.ts';
import type { Params } from './learner.ts';

/** File names that diffusers and transformers look for. */
const fileOf = (part: string): string =>
  part === 'unet' || part === 'vae' ? 'diffusion_pytorch_model.safetensors' : 'model.safetensors';

export interface ExportOptions {
  readonly metadata: Readonly<Record<string, string>>;
  /** Stored type of the weights. Default f32. */
  readonly dtype?: 'f32' | 'f16';
}

/**
 * Writes everything that trained into `folder`: a part of the backbone as `<part>/…`; an adapter as `<adapter>.safetensors`, keys without its name, or as the folder
 * `<adapter>/…` where it has a config.
 */
export function exportTrained(
  model: Model,
  trained: Params,
  folder: string,
  { metadata, dtype = 'f32' }: ExportOptions,
): void {
  const trains = trainability(model);
  const { params } = inventory(model, nominalDims);
  const groups = new Map<string, Record<string, NDArray>>();
  const stored = (array: NDArray): NDArray =>
    dtype === 'f32' ? array : toHalf(toF32(array), dtype);
  const touched = new Set([...params.keys()].filter(trains).map(groupOf));
  for (const { name, shape } of params.values()) {
    const group = groupOf(name);
    if (!touched.has(group)) continue;
    const named = groups.get(group) ?? {};
    const data = trained[name];
    named[name.slice(group.length + 1)] = stored(
      data ? { dtype: 'f32', shape, data } : model.weights.entry(name).load(),
    );
    groups.set(group, named);
  }
  mkdirSync(folder, { recursive: true });
  for (const [group, named] of groups) {
    const adapter = model.adapters.find(({ name }) => name === group);
    if (adapter) {
      const { tensors = {}, metadata: own = {} } = adapter.fileExtras ?? {};
      const keyed = Object.entries(named).map(([name, array]) => [
        adapter.fileKey?.(name) ?? name,
        array,
      ]);
      const whole = join(folder, group);
      if (adapter.config) {
        mkdirSync(whole, { recursive: true });
        writeFileSync(join(whole, 'config.json'), `${JSON.stringify(adapter.config, null, 2)}\n`);
      }
      writeSafetensors(
        adapter.config
          ? join(whole, 'diffusion_pytorch_model.safetensors')
          : `${whole}.safetensors`,
        { ...tensors, ...Object.fromEntries(keyed) },
        {
          ...own,
          ...(model.schedule
            ? { [TRAINED_WITH]: JSON.stringify(trainingPart(model.schedule.config)) }
            : {}),
          ...metadata,
        },
      );
      continue;
    }
    const part = join(folder, group);
    mkdirSync(part, { recursive: true });
    const config = model.configs?.[group];
    if (config) writeFileSync(join(part, 'config.json'), `${JSON.stringify(config, null, 2)}\n`);
    const file = join(part, fileOf(group));
    writeSafetensors(file, named, { format: 'pt', ...metadata });
  }
}

const groupOf = (name: string): string => name.slice(0, name.indexOf('.'));
