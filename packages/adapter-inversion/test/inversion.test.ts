/** A word of one's own: its vectors stand where its ids are, and nowhere else. */

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import {
  type Adapter,
  type AdapterFile,
  ClipTextConfig,
  clipText,
  compose,
  type Dims,
  loadModel,
  materialize,
  type Model,
  ModelRunner,
  nominalDims,
  readAdapterFile,
  Tokenizer,
} from '@attune/core';
import { describeAdapter } from '@attune/core/testing';
import { f32, i64, type NDArray, OrtRuntime, Rng, Weights } from '@attune/engine';
import { relativeError } from '@attune/engine/testing';
import { afterAll, describe, expect, test } from 'vitest';

import { torchSave } from '../../../test/properties/torch-save.ts';
import plugin, { textualInversion } from '../src/index.ts';

const words = ['<|startoftext|>', '<|endoftext|>', 'a</w>', 'c</w>', 'd</w>', 'a', 'c', 'd'];
const [WIDTH, LENGTH] = [8, 8];
const dims = { B: 2, F: 1, H: 1, W: 1, L: LENGTH };

/** A text encoder of eight tokens. */
function tinyText(): Model {
  const config = ClipTextConfig.parse({
    vocab_size: words.length,
    hidden_size: WIDTH,
    intermediate_size: 16,
    num_hidden_layers: 2,
    num_attention_heads: 2,
    max_position_embeddings: LENGTH,
    eos_token_id: 1,
  });
  const ids = new Map(words.map((word, id) => [word, id]));
  const bare: Model = {
    nets: { text_encoder: clipText(config) },
    tokenizer: new Tokenizer({ ids, merges: [] }, { maxLength: LENGTH }),
    weights: Weights.fromArrays({}),
    adapters: [],
  };
  return materialize(bare, { dims, seed: 3 });
}

const known = i64([0, 2, 3, 4, 1, 1, 1, 1, 0, 4, 2, 1, 1, 1, 1, 1], [2, LENGTH]);
const first = words.length;
const withWord = i64([0, 2, first, first + 1, 1, 1, 1, 1, 0, 4, 2, 1, 1, 1, 1, 1], [2, LENGTH]);

describeAdapter(
  'textual inversion',
  (given) => {
    const { name = 'inversion' } = given as { name?: string };
    return textualInversion({ word: `<${name}>`, vectors: 2, ...given });
  },
  {
    describe,
    test,
    model: tinyText(),
    net: 'text_encoder',
    dims,
    draw: (name) => (name === 'input_ids' ? withWord : undefined),
    startsAsIdentity: false, // the word is new to the model: there is nothing that it could stay
  },
);

const runtime = new OrtRuntime({ threads: 1 });
async function encoded(model: Model, ids: typeof known) {
  const runner = new ModelRunner(model, runtime);
  const { last_hidden_state: states } = await runner.run(
    { net: 'text_encoder', dims },
    { input_ids: ids },
  );
  await runner.release();
  return states;
}

const vectors = Rng.of(9).normals([2, WIDTH]);
const stored = (adapter: Adapter, model: Model, sizes: Dims = dims): Model =>
  materialize(compose(model, adapter), { dims: sizes });

test('prompts without the word are encoded as before', async () => {
  const model = tinyText();
  const adapter = textualInversion({ word: '<cat>', vectors: 2 });
  expect(await encoded(stored(adapter, model), known)).toEqual(await encoded(model, known));
});

test('the word reads as if the table held its vectors', async () => {
  const model = tinyText();
  const table = 'text_encoder.text_model.embeddings.token_embedding';
  const adapter = textualInversion({
    word: '<cat>',
    vectors: 2,
    weights: Weights.fromArrays({ [`${table}.emb_params`]: vectors }),
  });
  const own = stored(adapter, model);
  expect(own.tokenizer!.encode('a <cat> d').ids).toEqual([0, 2, first, first + 1, 4, 1, 1, 1]);
  // The same vectors in the rows of two words that the prompt does not have.
  const rows = Float32Array.from(
    model.weights.entry(`${table}.weight`).load().data as Float32Array,
  );
  rows.set(vectors.data, 5 * WIDTH);
  const lent = Weights.fromArrays({ [`${table}.weight`]: f32(rows, [words.length, WIDTH]) });
  const truth = { ...model, weights: Weights.overlay(model.weights, lent) };
  const ids = i64(
    Array.from(withWord.data, (id) => (id < first ? Number(id) : Number(id) - first + 5)),
    [2, LENGTH],
  );
  expect(relativeError(await encoded(own, withWord), await encoded(truth, ids))).toBeLessThan(1e-6);
});

const kind = plugin.contributes.adapters!['textual-inversion'];
const file = (tensors: Readonly<Record<string, NDArray>>, name = 'cat.safetensors') => ({
  path: name,
  weights: Weights.fromArrays(tensors),
  metadata: {},
});

test.each([
  ['emb_params', file({ emb_params: vectors }), 'embedding', '<cat>', 2],
  ['the first programs', file({ 'string_to_param.*': vectors }), 'original', '<cat>', 2],
  [
    'diffusers',
    file({ '<toy>': f32(vectors.data.slice(0, WIDTH), [WIDTH]) }),
    'diffusers',
    '<toy>',
    1,
  ],
])('a file of %s', async (_, from, dialect, word, length) => {
  expect(kind.detect!(from)).toMatchObject({ dialect, algorithm: 'textual-inversion' });
  const model = tinyText();
  const adapter = kind.create({ name: 'inversion', model, file: from }, kind.options.parse({}));
  expect(adapter.words).toEqual({ [word]: length });
  await encoded(stored(adapter, model), withWord);
});

test('other files are none', () => {
  expect(kind.detect!(file({ weight: vectors }))).toBeUndefined();
  expect(kind.detect!(file({ emb_params: vectors, other: vectors }))).toBeUndefined();
});

const wide = Rng.of(5).normals([2, 768]);
const plain = Rng.of(6).normals([2, 24]);
const pocket = await loadModel('test/parity/fixtures/unet/pocket');
const folder = mkdtempSync(join(tmpdir(), 'inversion-'));
afterAll(() => rmSync(folder, { recursive: true }));
const made = (from: AdapterFile): Adapter =>
  kind.create({ name: 'toy', model: pocket, file: from }, kind.options.parse({}));

test('a word without brackets is the only key of a file of torch.save', () => {
  const path = join(folder, 'learned_embeds.bin');
  torchSave(path, { 'cat-toy': plain });
  const from = readAdapterFile(path);
  const adapter = made(from);
  expect(adapter.words).toEqual({ 'cat-toy': 2 });
  const model = stored(adapter, pocket, nominalDims);
  const own = [...model.weights.names()].filter((name) => name.endsWith('emb_params'));
  expect(own.map((name) => model.weights.entry(name).load())).toEqual([plain]);
  const [all, without] = [model, pocket].map((one) => one.tokenizer!.encode('a cat-toy').ids);
  expect(all).not.toEqual(without);
});

test('such a file is known by the width of a text encoder', () => {
  torchSave(join(folder, 'wide.bin'), { 'cat-toy': wide });
  expect(kind.detect!(readAdapterFile(join(folder, 'wide.bin')))).toEqual({
    dialect: 'diffusers',
    algorithm: 'textual-inversion',
    evidence: 'cat-toy',
    base: 'sd1',
  });
  expect(kind.detect!(file({ cat: f32(wide.data.slice(0, 768), [768]) }))).toBeDefined();
});

test.each<[string, Record<string, NDArray>]>([
  ['another width', { 'cat-toy': plain }],
  ['a name that any layer has', { weight: wide }],
  ['a layer', { 'proj.weight': wide }],
  ['a bias', { bias: f32(wide.data.slice(0, 768), [768]) }],
  ['a second tensor', { 'cat-toy': wide, dog: wide }],
  ['more vectors than a prompt has', { 'cat-toy': f32(new Float32Array(76 * 768), [76, 768]) }],
  ['three axes', { 'cat-toy': f32(wide.data, [1, 2, 768]) }],
  ['a number', { 'cat-toy': f32([1], []) }],
  ['whole numbers', { 'cat-toy': { dtype: 'i64', shape: [768], data: new BigInt64Array(768) } }],
  ['a sentence', { 'a cat toy': wide }],
])('no inversion: %s', (_, tensors) => {
  expect(kind.detect!(file(tensors))).toBeUndefined();
});

test('what is no inversion is refused where a stack says that it is one', () => {
  expect(() => made(file({ weight: plain }))).toThrow(/is no textual inversion/);
  expect(() => made(file({ 'cat-toy': wide }))).toThrow(/cat-toy is \[2,768\].*\[count, 24\]/);
});

test('a ParameterDict of the first programs, beside what else they keep', () => {
  const from = readAdapterFile('test/parity/fixtures/checkpoints/embedding.pt');
  expect(kind.detect!(from)).toMatchObject({ dialect: 'original', evidence: 'string_to_param.*' });
  const adapter = made(from);
  expect(adapter.words).toEqual({ '<embedding>': 2 });
  const truth = Weights.fromFile('test/parity/fixtures/checkpoints/embedding.safetensors');
  const model = stored(adapter, pocket, nominalDims);
  const own = [...model.weights.names()].find((name) => name.endsWith('emb_params'))!;
  expect(model.weights.entry(own).load()).toEqual(truth.entry('string_to_param.*').load());
});

test('a word that is there already is refused, and a model without a tokenizer', async () => {
  const model = tinyText();
  const one = textualInversion({ name: 'one', word: '<cat>' });
  const two = textualInversion({ name: 'two', word: '<cat>' });
  expect(() => compose(model, one, two)).toThrow(/already has "<cat>"/);
  const { tokenizer: _, ...bare } = await loadModel('test/parity/fixtures/clip/quick');
  expect(() => compose(bare, one)).toThrow(/no tokenizer/);
});
