/** What routes lead where, and what each branch of the guidance is fed. */

import { type Adapter, compose, loadModel, ModelRunner, type Routes, routesOf } from '@attune/core';
import { f32, type F32Array, OrtRuntime, Rng } from '@attune/engine';
import { describe, expect, test } from 'vitest';

import { Conditions } from '../src/sample/conditions.ts';

/** Takes everything that can be routed, and a tensor that cannot. */
const eater: Adapter = {
  name: 'eater',
  ports: {
    pictures: { per: 'frame', takes: 'image', source: 'input', shape: () => [3, 8, 8] },
    face: { per: 'clip', takes: 'image', shape: () => [3, 4, 6], defaultTo: 'sample' },
    words: { per: 'clip', takes: 'text', source: 'instruction', shape: ({ L }) => [L, 24] },
    start: { per: 'clip', takes: 'latents', source: 'first_frame', shape: ({ H, W }) => [4, H, W] },
    kind: { per: 'clip', takes: 'label', source: 'task', shape: () => [], dtype: 'i64' },
    depth: { per: 'frame', shape: () => [1], defaultTo: 'sample' },
  },
  attach: () => [],
};

const base = await loadModel('test/parity/fixtures/unet/pocket');
const routed = (routes: Routes) => ({ ...compose(base, eater), routes });
const grey = (height: number, width: number): Promise<F32Array> =>
  Promise.resolve(f32(new Float32Array(3 * height * width).fill(0.5), [1, 3, height, width]));

describe('routesOf', () => {
  test('a port has its own source, or what is said', () => {
    const found = routesOf(routed({ 'eater.face': { image: grey } }));
    expect(found.map(({ port, route, given }) => [port, route, given])).toEqual([
      ['encoder_hidden_states', 'motion_caption', false],
      ['eater.pictures', 'input', false],
      ['eater.face', { image: grey }, true],
      ['eater.words', 'instruction', false],
      ['eater.start', 'first_frame', false],
      ['eater.kind', 'task', false],
      ['eater.depth', undefined, false],
    ]);
  });

  test.each<[string, Routes, string, RegExp]>([
    ['no port', { 'eater.fce': 'input' }, 'UNKNOWN_PORT', /nearest: eater\.face/],
    ['no source', { 'eater.face': 'ipnut' }, 'UNKNOWN_SOURCE', /nearest: input/],
    ['a method of objects', { 'eater.face': 'toString' }, 'UNKNOWN_SOURCE', /which no run has/],
    ['a text for a picture', { 'eater.face': { text: 'x' } }, 'ROUTE_TYPE', /takes a picture/],
    ['a picture for a text', { encoder_hidden_states: 'input' }, 'ROUTE_TYPE', /takes a text/],
    ['a text for a label', { 'eater.kind': 'caption' }, 'ROUTE_TYPE', /takes the number/],
    [
      'a tensor of its own kind',
      { 'eater.depth': 'input' },
      'UNKNOWN_PORT',
      /nothing can be routed/,
    ],
  ])('%s is refused', (_, routes, code, message) => {
    expect(() => routesOf(routed(routes))).toThrow(
      expect.objectContaining({ code, message: expect.stringMatching(message) }),
    );
  });
});

const runner = (routes: Routes) => new ModelRunner(routed(routes), new OrtRuntime({ threads: 1 }));

const begin = (array: { data: ArrayLike<number | bigint> }) => Array.from(array.data).slice(0, 50);

const near = (a: unknown[], b: number[]) =>
  a.forEach((value, i) => expect(value).toBeCloseTo(b[i], 4));

describe('conditions', () => {
  const texts = {
    prompt: ['a cat'],
    instruction: ['make it gold'],
    caption: ['a gold cat'],
    motion_caption: ['a gold cat runs'],
    negative: ['blur'],
  };
  const branches = { none: { words: true, input: true }, image: { words: true }, full: {} };

  test('words and files go with the words, what is edited with the image, latents and labels stay', async () => {
    const own = runner({ 'eater.face': { image: grey }, encoder_hidden_states: { text: 'a dog' } });
    const dims = { B: 1, F: 3, H: 8, W: 8, L: 77 };
    const input = Rng.of(1).normals([3, 3, 8, 8]);
    const firstFrame = Rng.of(2).normals([1, 4, 8, 8]);
    const conditions = await Conditions.of(own, [texts]);
    const given = { dims, input, firstFrame, task: 2 };
    const { none, image, full } = await conditions.branches(0, given, branches);
    const { states } = await own.encodeText(['a dog', 'make it gold', 'blur']);
    const rowOf = (i: number) =>
      [...states.data.subarray((i * states.data.length) / 3)].slice(0, 50);
    near(begin(full.encoder_hidden_states), rowOf(0));
    near(begin(full['eater.words']), rowOf(1));
    for (const port of ['encoder_hidden_states', 'eater.words'])
      for (const branch of [none, image]) near(begin(branch[port]), rowOf(2));
    expect(full['eater.face'].shape).toEqual([1, 3, 4, 6]);
    expect([none, image, full].map((one) => one['eater.face'].data[0])).toEqual([0, 0, 0.5]);
    expect([none, image, full].map((one) => one['eater.pictures'].data[0])).toEqual([
      0,
      input.data[0],
      input.data[0],
    ]);
    for (const one of [none, image, full]) {
      expect(one['eater.start']).toBe(firstFrame);
      expect(one['eater.kind'].data[0]).toBe(2n);
    }
  });

  test('one picture is every frame’s; what a run lacks is an error that names the port', async () => {
    const own = runner({ 'eater.pictures': { image: grey }, 'eater.kind': 1 });
    const dims = { B: 1, F: 3, H: 8, W: 8, L: 77 };
    const conditions = await Conditions.of(own, [texts]);
    expect([conditions.reads('input'), conditions.reads('first_frame')]).toEqual([false, true]);
    await expect(conditions.branches(0, { dims }, branches)).rejects.toThrow(
      /eater\.start is fed first_frame, which this run does not have/,
    );
    const firstFrame = Rng.of(2).normals([1, 4, 8, 8]);
    const { full } = await conditions.branches(0, { dims, firstFrame }, branches);
    expect(full['eater.pictures'].shape).toEqual([3, 3, 8, 8]);
    expect(full['eater.kind'].data[0]).toBe(1n);
    expect(full['eater.face']).toBeUndefined();
  });
});
