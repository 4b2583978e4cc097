/** The composition fixtures as models and arrays. */

import { edit, EditConfig } from '@attune/adapter-edit';
import { lora, readLora } from '@attune/adapter-lora';
import { video, VideoConfig } from '@attune/adapter-video';
import {
  type Adapter,
  checkpointKey,
  compose,
  loadModel,
  materialize,
  type Model,
  nominalDims,
  readAdapterFile,
} from '@attune/core';
import { type F32Array, type NDArray, openSafetensors } from '@attune/engine';

const fixtures = 'test/parity/fixtures';

export interface Case {
  readonly model: Model;
  /** Tensors by name: `in.…`, `out.…`, `cot.…`, `grad.…`; clips as rows (b f). */
  readonly io: ReadonlyMap<string, NDArray>;
}

/** A case of test/parity/fixtures/compose/<name>, its adapters stacked as its metadata says. */
export async function openCase(name: string, file: string): Promise<Case> {
  const folder = `${fixtures}/compose/${name}`;
  const source = openSafetensors(`${folder}/io.${file}.safetensors`);
  const { adapters, norm } = JSON.parse(source.metadata.case) as {
    adapters: Record<string, number>;
    norm?: 'per_frame';
  };
  let model = await loadModel(`${fixtures}/unet/${name}`);
  for (const adapter of ['video', 'edit', 'look', 'sway', 'words'])
    if (adapter in adapters)
      model = compose(
        model,
        openAdapter(folder, adapter, adapters[adapter], model, norm ? { norm } : {}),
      );
  const io = readCase(`${folder}/io.${file}.safetensors`);
  // Every weight of every file must be asked for, and every parameter must be there.
  return { model: materialize(model, { dims: nominalDims }), io };
}

/** The tensors of a case, clips as rows (b f). */
export function readCase(path: string): Case['io'] {
  const source = openSafetensors(path);
  return new Map([...source.tensors.keys()].map((key) => [key, asRows(source.read(key))]));
}

function openAdapter(
  folder: string,
  name: string,
  strength: number,
  model: Model,
  changes: Partial<VideoConfig>,
): Adapter {
  if (name === 'video' || name === 'edit') {
    const { weights, config } = readAdapterFile(`${folder}/${name}`);
    return name === 'video'
      ? video({
          config: VideoConfig.parse({ ...(config as object), ...changes }),
          weights,
          strength,
        })
      : edit({ config: EditConfig.parse(config), weights, strength });
  }
  return loraFrom(`${folder}/${name}.safetensors`, name, model, strength);
}

/** A LoRA file as a trainable adapter. */
export function loraFrom(path: string, name: string, model: Model, strength = 1): Adapter {
  const read = readLora(readAdapterFile(path), model);
  return lora({ name, ...read, train: true, strength });
}

/** A clip [B, C, F, H, W] as rows [B·F, C, H, W]; i64 times as f32; anything else as it is. */
function asRows(array: NDArray): NDArray {
  if (array.shape.length !== 5) return array;
  const [b, c, f, h, w] = array.shape;
  const source = array.data as Float32Array;
  const data = new Float32Array(source.length);
  const size = h * w;
  for (let i = 0; i < b; i++)
    for (let j = 0; j < c; j++)
      for (let k = 0; k < f; k++) {
        const from = ((i * c + j) * f + k) * size;
        data.set(source.subarray(from, from + size), ((i * f + k) * c + j) * size);
      }
  return { dtype: 'f32', shape: [b * f, c, h, w], data };
}

/** Inputs of a case, times as f32. */
export function feedsOf(io: Case['io']): Record<string, NDArray> {
  const feeds: Record<string, NDArray> = {};
  for (const [key, array] of io)
    if (key.startsWith('in.')) feeds[key.slice(3)] = /timestep/.test(key) ? floats(array) : array;
  return feeds;
}

const floats = ({ shape, data }: NDArray): F32Array => ({
  dtype: 'f32',
  shape,
  data: Float32Array.from(data as Float32Array, Number),
});

/** The fixture's name of a gradient: a parameter is spelled as in its adapter's file. */
export const fixtureName = ({ adapters }: Model, name: string): string =>
  `grad.${checkpointKey(adapters, name)}`;
