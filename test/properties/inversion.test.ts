/**
 * Textual inversions in every layout and container, with random numbers of vectors: the words read as if the
 * encoder's table held the vectors.
 */

import { loadModel, type Model } from '@attune/core';
import {
  f32,
  i64,
  type NDArray,
  Rng,
  toF32,
  toHalf,
  Weights,
  writeSafetensors,
} from '@attune/engine';
import { relativeError } from '@attune/engine/testing';
import { expect, test } from 'vitest';

import { torchSave } from './torch-save.ts';
import { at, damaged, effect, opened, type Tensors, verdictOn } from './wholes.ts';

const backbone = 'test/parity/fixtures/unet/pocket';
const table = 'text_encoder.text_model.embeddings.token_embedding.weight';
const width = 24;

interface Layout {
  readonly key: string;
  readonly write: (path: string, tensors: Tensors, word: string) => string;
  /** The word that prompts write for a file of this name, or for the word that it was trained as. */
  readonly word: (file: string, trained: string) => string;
}

const named = (path: string, ending: string): string => `${path}.${ending}`;

/** Layouts by their dialect and container. */
const layouts: Readonly<Record<string, Layout>> = {
  'original, pickled by the first programs': {
    key: 'string_to_param.*',
    write: (path, tensors, word) => {
      const whole = tensors['string_to_param.*'];
      torchSave(named(path, 'pt'), {
        string_to_token: { '*': 265 },
        ...(whole ? { string_to_param: { '*': whole } } : {}),
        name: word,
        step: 3000,
        sd_checkpoint: null,
      });
      return named(path, 'pt');
    },
    word: (file) => `<${file}>`,
  },
  'embedding, in safetensors': {
    key: 'emb_params',
    write: (path, tensors) => {
      writeSafetensors(named(path, 'safetensors'), tensors);
      return named(path, 'safetensors');
    },
    word: (file) => `<${file}>`,
  },
  'embedding, with its name in the header': {
    key: 'emb_params',
    write: (path, tensors, word) => {
      writeSafetensors(named(path, 'safetensors'), tensors, { name: word });
      return named(path, 'safetensors');
    },
    word: (_, trained) => `<${trained}>`,
  },
  'diffusers, in safetensors': {
    key: '<own>',
    write: (path, tensors) => {
      writeSafetensors(named(path, 'safetensors'), tensors);
      return named(path, 'safetensors');
    },
    word: () => '<own>',
  },
  'diffusers, pickled': {
    key: '<own>',
    write: (path, tensors) => {
      torchSave(named(path, 'bin'), tensors);
      return named(path, 'bin');
    },
    word: () => '<own>',
  },
};

/** The model with these rows in the table, in the places of ids that no prompt here has. */
function lent(model: Model, vectors: Float32Array, first: number): Model {
  const { shape, data } = toF32(model.weights.entry(table).load());
  const rows = Float32Array.from(data);
  rows.set(vectors, first * width);
  const weights = Weights.fromArrays({ [table]: f32(rows, shape) });
  return { ...model, weights: Weights.overlay(model.weights, weights) };
}

test.each(Object.entries(layouts))('6 files: %s', async (name, { key, write, word }) => {
  const base = await loadModel(backbone);
  const { size, maxLength } = base.tokenizer!;
  for (let k = 0; k < 6; k++) {
    const rng = Rng.of(57).fork(name, k);
    const count = 1 + rng.int(5);
    const whole = rng.normals([count, width]);
    const half = rng.uniform() < 0.5;
    const stored = half ? toHalf(whole, 'f16') : whole;
    const flat = count === 1 && rng.uniform() < 0.5;
    const vectors: NDArray = flat ? { ...stored, shape: [width] } : stored;
    const file = `word-${k}`;
    const save = (tensors: Tensors): string => write(at(file), tensors, 'trained');
    const path = save({ [key]: vectors });
    expect(await verdictOn(path, backbone)).toMatchObject({
      verdict: 'loadable',
      kind: 'textual-inversion',
      dialect: name.slice(0, name.indexOf(',')),
    });
    const model = await opened(backbone, { use: 'textual-inversion', from: path });
    const said = word(file, 'trained');
    const { ids } = model.tokenizer!.encode(`a ${said} at the ${said}`);
    expect(ids.filter((id) => id >= size)).toHaveLength(2 * count);
    const first = 100;
    const rows = ids.map((id) => (id < size ? id : id - size + first));
    const feed = (own: readonly number[]) => ({ input_ids: i64([...own], [1, maxLength]) });
    const [got, want, before] = await Promise.all([
      effect(model, 'text_encoder', feed(ids)),
      effect(lent(base, toF32(stored).data, first), 'text_encoder', feed(rows)),
      effect(base, 'text_encoder', feed(rows)),
    ]);
    expect(relativeError(got, want)).toBeLessThan(1e-6);
    expect(relativeError(before, want)).toBeGreaterThan(1e-3);
    if (k > 0) continue;
    await damaged({
      rng: rng.fork('damage'),
      tensors: { [key]: toF32(vectors) },
      // Without its one tensor a file is none of these.
      optional: /./,
      backbone,
      write: save,
      use: (from) => opened(backbone, { use: 'textual-inversion', from }),
      names: () => ['emb_params'],
    });
  }
});

test.each<[string, number[]]>([
  ['a number', []],
  ['no vectors', [0, width]],
  ['vectors of nothing', [2, 0]],
  ['a stack of tables', [2, 2, width]],
  ['more vectors than a prompt has room for', [100, width]],
])('%s in the place of the vectors is refused by name', async (_, shape) => {
  const size = shape.reduce((a, b) => a * b, 1);
  const path = at('odd.safetensors');
  writeSafetensors(path, { emb_params: f32(new Float32Array(size).fill(0.5), shape) });
  await expect(opened(backbone, { use: 'textual-inversion', from: path })).rejects.toThrow(
    /emb_params/,
  );
  expect(await verdictOn(path, backbone)).toMatchObject({
    verdict: 'refused',
    reason: expect.stringContaining('emb_params') as string,
  });
});
