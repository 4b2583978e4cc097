/** Files of the wild that hold no weights attune could read, told by their first bytes or their folder. */

import { join } from 'node:path';

import { expect, test } from 'vitest';

import { folder, tensors, verdictOn, written } from './foreign-scene.ts';
import { torchSave } from './properties/torch-save.ts';

test('a hypernetwork, pickled', async () => {
  const path = join(folder, 'hyper.pt');
  const own = tensors({ 'linear.0.weight': [4, 4] });
  torchSave(path, { '768': { '0': own, '1': own }, name: 'hyper', step: 100 });
  expect(await verdictOn(path)).toMatchObject({
    verdict: 'refused',
    kind: 'hypernetwork',
    fix: expect.stringMatching(/LoRA/) as string,
  });
});

const bytes = (...values: readonly number[]): Buffer => Buffer.from(values);
/** An archive's first file, as its head says it. */
const zip = (name: string): Buffer => {
  const head = Buffer.alloc(30);
  head.write('PK\u0003\u0004', 'latin1');
  head.writeUInt16LE(name.length, 26);
  return Buffer.concat([head, Buffer.from(name), Buffer.alloc(64)]);
};

test.each<[string, string, string | Uint8Array, RegExp, RegExp]>([
  ['a GGUF file', 'a.gguf', 'GGUF\u0003\0\0\0', /GGUF/, /safetensors/],
  ['a GGML file', 'a.bin', 'lmgg\u0001\0\0\0', /GGUF/, /safetensors/],
  [
    'an ONNX model',
    'a.onnx',
    bytes(8, 10, 0x12, 7, ...Buffer.from('pytorch')),
    /ONNX/,
    /safetensors/,
  ],
  [
    'a SavedModel of TensorFlow',
    'saved_model.pb',
    bytes(8, 1, 0x12, 40, 0),
    /TensorFlow/,
    /PyTorch/,
  ],
  ['a Keras file', 'a.h5', Buffer.from('\u0089HDF\r\n\u001a\n', 'latin1'), /TensorFlow/, /PyTorch/],
  ['TensorFlow Lite', 'a.tflite', bytes(28, 0, 0, 0, ...Buffer.from('TFL3')), /TensorFlow/, /./],
  [
    'a checkpoint of TensorFlow',
    'model.ckpt.data-00000-of-00001',
    bytes(1, 2, 3, 200),
    /TensorFlow/,
    /PyTorch/,
  ],
  ['Flax', 'flax_model.msgpack', bytes(0x8a, 0xa4, 1, 2), /Flax/, /PyTorch/],
  ['a zip of a LoRA', 'a.zip', zip('my lora/style.safetensors'), /zip archive.*style/, /unpack it/],
  ['NumPy arrays', 'a.npz', zip('arr_0.npy'), /zip archive.*arr_0/, /safetensors/],
  ['a NumPy array', 'a.npy', Buffer.from('\u0093NUMPY\u0001\0', 'latin1'), /NumPy/, /safetensors/],
  [
    'a 7z archive',
    'a.7z',
    Buffer.from('7z\u00bc\u00af\u0027\u001c', 'latin1'),
    /packed archive/,
    /unpack it/,
  ],
  [
    'a web page',
    'a.safetensors',
    '\n<!DOCTYPE html>\n<html><title>Sign in</title>',
    /web page/,
    /log in/,
  ],
  ['an XML file', 'openvino_model.xml', '<?xml version="1.0"?><net/>', /XML/, /safetensors/],
  [
    "a site's message",
    'a.safetensors',
    'Access to model x is restricted. You must be authenticated.',
    /text file/,
    /log in/,
  ],
  ['a message in JSON', 'a.safetensors', '{"error":"Unauthorized"}', /JSON/, /download them again/],
  [
    'a Git LFS pointer',
    'a.ckpt',
    'version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n',
    /Git LFS/,
    /git lfs pull/,
  ],
  ['a download that was cut', 'a.safetensors', Buffer.alloc(4096), /zeros/, /again/],
  ['a download under way', 'a.safetensors.part', bytes(1, 2, 3, 255), /not ended/, /again/],
])('files that are no weights: %s', async (_, name, content, reason, fix) => {
  const verdict = await verdictOn(written(name, content));
  expect(verdict).toMatchObject({ verdict: 'refused', container: 'refused' });
  expect([verdict.reason, verdict.fix]).toEqual([
    expect.stringMatching(reason),
    expect.stringMatching(fix),
  ]);
});

test.each([
  'StableDiffusionXLPipeline',
  'FluxPipeline',
  'StableDiffusion3Pipeline',
  'WanPipeline',
  'PixArtSigmaPipeline',
])('a model folder of another family: %s', async (name) => {
  const path = written('model_index.json', JSON.stringify({ _class_name: name }));
  expect(await verdictOn(join(path, '..'))).toMatchObject({
    verdict: 'refused',
    reason: expect.stringContaining(name) as string,
    fix: expect.stringMatching(/Stable Diffusion 1 or 2/) as string,
  });
});
