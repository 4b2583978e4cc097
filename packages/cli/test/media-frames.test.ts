import { expect, test } from 'vitest';

import {
  enlarge,
  fitFrame,
  fitFrames,
  type Frame,
  fpsOf,
  resample,
  sideBySide,
  toFrames,
} from '../src/media/index.ts';
import { drawText, wrapText } from '../src/media/lettering.ts';
import { failure, flat, pixel, scene } from './media-scenes.ts';

const all = async (frames: AsyncIterable<Frame>) => {
  const list: Frame[] = [];
  for await (const frame of frames) list.push(frame);
  return list;
};

test('frames of the right size become planes of [0, 1] and come back exactly', async () => {
  const frames = scene(6, 4, 3);
  const values = await fitFrames(frames, 6, 4);
  expect(values).toHaveLength(3 * 3 * 4 * 6);
  const at = (f: number, c: number, y: number, x: number) => values[((f * 3 + c) * 4 + y) * 6 + x];
  expect(at(1, 2, 3, 5)).toBeCloseTo(pixel(frames[1], 5, 3)[2] / 255);
  expect(toFrames(values, 6, 4, [125, 125, 125])).toEqual(frames);
});

test('other sizes are covered and cropped in the middle', async () => {
  const wide = flat(40, 10, [0, 0, 0]);
  for (let y = 0; y < 10; y++) wide.data.fill(255, (y * 40 + 15) * 3, (y * 40 + 25) * 3);
  const square = await fitFrame(wide, 10, 10);
  expect([square.width, square.height]).toEqual([10, 10]);
  expect(square.data.every((value) => value === 255)).toBe(true);
  const small = await fitFrame(flat(100, 300, [10, 200, 30], 40), 7, 5);
  expect([small.width, small.height, small.delay]).toEqual([7, 5, 40]);
  expect(pixel(small, 3, 2)).toEqual([10, 200, 30]);
  // A checkerboard reduced by 8 is grey: reducing averages.
  const board = flat(64, 64, [0, 0, 0]);
  for (let i = 0; i < 64 * 64; i++)
    if ((i + Math.floor(i / 64)) % 2) board.data.fill(255, i * 3, i * 3 + 3);
  const grey = await fitFrame(board, 8, 8);
  expect(Math.abs(pixel(grey, 4, 4)[0] - 127)).toBeLessThan(6);
});

test('values outside [0, 1] are clamped; NaN, ∞ and odd counts are errors', async () => {
  const [frame] = toFrames(Float32Array.of(-1, 0.5, 2), 1, 1);
  expect(frame).toEqual({ data: Uint8Array.of(0, 128, 255), width: 1, height: 1, delay: 0 });
  for (const bad of [Number.NaN, Infinity])
    expect((await failure(() => toFrames(Float32Array.of(0, bad, 0), 1, 1))).code).toBe(
      'NOT_FINITE',
    );
  expect((await failure(() => toFrames(new Float32Array(4), 1, 1))).code).toBe('BAD_ARGUMENT');
  expect((await failure(() => fitFrame(flat(4, 4, [1, 2, 3]), 0, 4))).code).toBe('BAD_ARGUMENT');
});

test('a variable rate becomes a constant one', async () => {
  const times = [100, 300, 50, 150];
  const uneven = scene(4, 4, 4).map((frame, i) => ({ ...frame, delay: times[i] }));
  const even = await all(resample(uneven, 10));
  expect(even.map(({ data }) => uneven.findIndex((frame) => frame.data === data))).toEqual([
    0, 1, 1, 1, 3, 3,
  ]);
  expect(even.every(({ delay }) => delay === 100)).toBe(true);
  const jitter = scene(4, 4, 90).map((frame, i) => ({ ...frame, delay: [33, 33, 34][i % 3] }));
  const steady = await all(resample(jitter, 30));
  expect(steady.map(({ data }) => data)).toEqual(jitter.map(({ data }) => data));
  expect(await all(resample(scene(4, 4, 1, 1), 10))).toHaveLength(1);
  expect(fpsOf(times)).toBeCloseTo(4 / 0.6);
});

test('columns stand beside each other, enlarged, the shorter one held', () => {
  const red = [flat(4, 4, [255, 0, 0], 100), flat(4, 4, [200, 0, 0], 50)];
  const blue = [flat(4, 4, [0, 0, 255], 100)];
  const both = sideBySide([red, blue], [], { scale: 4, gap: 2 });
  expect(both.map(({ width, height, delay }) => [width, height, delay])).toEqual([
    [38, 20, 100],
    [38, 20, 50],
  ]);
  expect(pixel(both[1], 2, 2)).toEqual([200, 0, 0]);
  expect(pixel(both[1], 17, 17)).toEqual([200, 0, 0]);
  expect(pixel(both[1], 18, 10)).toEqual([255, 255, 255]);
  expect(pixel(both[1], 20, 2)).toEqual([0, 0, 255]);
  expect(enlarge(blue[0], 3)).toMatchObject({ width: 12, height: 12 });
});

test('small clips are shown at about 256 rows, under their labels', () => {
  const labels = ['input', 'stacked, aligned by distillation'];
  const [frame] = sideBySide([scene(64, 64, 2), scene(64, 64, 1)], labels);
  expect([frame.width, frame.height]).toEqual([8 + 256 + 8 + 256 + 8, 8 + 2 * 20 + 256 + 8]);
  const dark = (from: number, to: number) => {
    let count = 0;
    for (let y = 8; y < 48; y++)
      for (let x = from; x < to; x++) if (pixel(frame, x, y)[0] === 0) count++;
    return count;
  };
  expect(dark(8, 264)).toBeGreaterThan(100);
  expect(dark(272, 528)).toBeGreaterThan(dark(8, 264));
});

test('letters need no font', () => {
  const { data, width, height } = flat(18, 8, [255, 255, 255]);
  drawText({ data, width, height }, 'Ag!', 0, 0, 1);
  const rows = Array.from({ length: height }, (_, y) =>
    Array.from({ length: width }, (__, x) => (data[(y * width + x) * 3] ? '.' : '#')).join(''),
  );
  expect(`\n${rows.join('\n')}`).toMatchInlineSnapshot(`
    "
    .###..........#...
    #...#.........#...
    #...#..####...#...
    #####.#...#...#...
    #...#.#...#...#...
    #...#..####.......
    #...#.....#...#...
    .......###........"
  `);
  expect(wrapText('naïve “edit” → aVeryLongWordIndeed', 60, 1)).toEqual([
    'naive',
    '"edit" ->',
    'aVeryLongW',
    'ordIndeed',
  ]);
});

test('bad columns are named', async () => {
  for (const columns of [[], [[]], [[flat(2, 2, [0, 0, 0]), flat(3, 2, [0, 0, 0])]]])
    expect((await failure(() => sideBySide(columns))).code).toBe('BAD_ARGUMENT');
});
