/**
 * The grid of a classifier: frames no training has seen, and what it says of each, a line a question; what is
 * wrong stands in red, with the truth.
 *
 *   node packages/pocket/scripts/grid-judge.mjs [--judge FOLDER] [--frames N] [--out GRID.webp] [--threads N]
 *
 * FOLDER is pocket's `judge` (default) or `features`.
 */
import { mkdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { parseArgs } from 'node:util';

import { findPlugins, PluginLoader } from '@attune/core';
import { OrtRuntime, Rng } from '@attune/engine';
import { FRAMES, HEADS, Judge, labelOf, renderFrame, sampleScene, SIDE } from '@attune/pocket';
import sharp from 'sharp';

const pocket = join(import.meta.dirname, '..');
const { values: flags } = parseArgs({
  options: {
    judge: { type: 'string', default: join(pocket, 'models', 'judge') },
    frames: { type: 'string', default: '32' },
    out: { type: 'string', default: 'runs/gates/judge.webp' },
    threads: { type: 'string', default: '1' },
  },
});

/** Trainings draw from the streams of their recipes' small seeds; this grid from its own. */
const HELD_OUT_SEED = 900_601;
const COLUMNS = 8;
const LINE = 13;
const AREA = SIDE * SIDE;
const SHOWN = 2 * SIDE;
const [width, height] = [SHOWN + 28, SHOWN + LINE * Object.keys(HEADS).length + 8];

const stream = Rng.of(HELD_OUT_SEED).fork('grid');
const count = Number(flags.frames);
const frames = Array.from({ length: count }, (_, id) => {
  const rng = stream.fork(id);
  const scene = sampleScene(rng);
  return { scene, ...renderFrame(scene, rng.int(FRAMES)) };
});

const runtime = new OrtRuntime({ threads: Number(flags.threads) });
const judge = await Judge.open(flags.judge, runtime, new PluginLoader(findPlugins(pocket)));
const data = new Float32Array(count * 3 * AREA);
frames.forEach(({ pixels }, k) => data.set(pixels, k * pixels.length));
const seen = await judge.see({ dtype: 'f32', shape: [count, 3, SIDE, SIDE], data });
await judge.release();

/** What is said of frame `k`, and whether it is right, by question. */
const answers = (k) =>
  Object.entries(HEADS).map(([head, names]) => {
    const [said, truth] = [seen[head][k], labelOf(frames[k].scene, head)];
    const right = said === truth;
    return { right, text: `${head}: ${names[said]}${right ? '' : ` (${names[truth]})`}` };
  });

/** A frame, as large as two, over its answers. */
async function cell(k) {
  const rgb = Buffer.from(
    Array.from({ length: 3 * AREA }, (_, i) =>
      Math.round(255 * frames[k].pixels[(i % 3) * AREA + Math.floor(i / 3)]),
    ),
  );
  const picture = await sharp(rgb, { raw: { width: SIDE, height: SIDE, channels: 3 } })
    .resize(SHOWN, SHOWN, { kernel: 'nearest' })
    .png()
    .toBuffer();
  const lines = answers(k).map(
    ({ right, text }, i) =>
      `<text x="1" y="${LINE * (i + 1)}" fill="${right ? '#333' : '#d00'}">${text}</text>`,
  );
  const words = `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height - SHOWN}" font-family="sans-serif" font-size="10">${lines.join('')}</svg>`;
  const [left, top] = [(k % COLUMNS) * width, Math.floor(k / COLUMNS) * height];
  return [
    { input: picture, left, top },
    { input: Buffer.from(words), left, top: top + SHOWN },
  ];
}

const cells = await Promise.all(frames.map((_, k) => cell(k)));
mkdirSync(dirname(flags.out), { recursive: true });
await sharp({
  create: {
    width: COLUMNS * width,
    height: Math.ceil(count / COLUMNS) * height,
    channels: 3,
    background: 'white',
  },
})
  .composite(cells.flat())
  .webp({ quality: 75 })
  .toFile(flags.out);
const right = frames.flatMap((_, k) => answers(k)).filter((answer) => answer.right).length;
console.log(`${right} of ${count * Object.keys(HEADS).length} answers right\nwrote ${flags.out}`);
