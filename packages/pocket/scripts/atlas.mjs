/**
 * Rasterises the world's sprites, once: `pnpm --filter @attune/pocket atlas` writes atlas/atlas.bin.
 * The file is committed, because a renderer's next version must not move a pixel of the truth.
 *
 * Layout: "ATLS", the index's length (u32 le), the index (JSON), the deflated pixels. Every sprite is
 * SIDE × SIDE: `colour` is straight-alpha RGBA, row-major; `ink` is the alpha of the aligned line art.
 */
import { writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { deflateSync } from 'node:zlib';

import sharp from 'sharp';

const require = createRequire(import.meta.url);
const flat = require('@iconify-json/fluent-emoji-flat/icons.json');
const contrast = require('@iconify-json/fluent-emoji-high-contrast/icons.json');

const SIDE = 96;

/** The world's name of each sprite → the emoji it is drawn from. */
const SPRITES = {
  lion: 'lion',
  cat: 'cat',
  pig: 'pig',
  frog: 'frog',
  panda: 'panda',
  elephant: 'elephant',
  whale: 'spouting-whale',
  penguin: 'penguin',
  owl: 'owl',
  rabbit: 'rabbit-face',
  turtle: 'turtle',
  octopus: 'octopus',
  butterfly: 'butterfly',
  crab: 'crab',
  dinosaur: 't-rex',
  apple: 'red-apple',
  banana: 'banana',
  strawberry: 'strawberry',
  watermelon: 'watermelon',
  pear: 'pear',
  car: 'automobile',
  bus: 'bus',
  rocket: 'rocket',
  train: 'locomotive',
  sailboat: 'sailboat',
  balloon: 'balloon',
  ball: 'soccer-ball',
  teddy: 'teddy-bear',
  dog: 'dog-face',
  robot: 'robot',
  'top hat': 'top-hat',
  crown: 'crown',
  cap: 'billed-cap',
  'sun hat': 'womans-hat',
  helmet: 'rescue-workers-helmet',
};

/** Rows from which a sprite is cut off: the helmet comes without its chin strap. */
const CUT = { helmet: 61 };

/** @returns {Promise<Buffer>} RGBA, straight alpha */
async function rasterise(set, name) {
  const icon = set.icons[name];
  if (!icon) throw new Error(`${set.prefix} has no ${name}.`);
  const side = icon.width ?? set.width ?? set.height;
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${side} ${side}" width="${SIDE}" height="${SIDE}">${icon.body}</svg>`;
  const { data, info } = await sharp(Buffer.from(svg))
    .ensureAlpha()
    .raw()
    .toBuffer({ resolveWithObject: true });
  if (info.width !== SIDE || info.height !== SIDE || info.channels !== 4)
    throw new Error(`${name} came out as ${info.width} × ${info.height} × ${info.channels}.`);
  return data;
}

const blocks = [];
for (const [name, icon] of Object.entries(SPRITES)) {
  const colour = await rasterise(flat, icon);
  const ink = await rasterise(contrast, icon);
  const end = (CUT[name] ?? SIDE) * SIDE * 4;
  colour.fill(0, end);
  ink.fill(0, end);
  blocks.push(colour, Buffer.from(ink.filter((_, i) => i % 4 === 3)));
}
const index = Buffer.from(JSON.stringify({ side: SIDE, sprites: Object.keys(SPRITES) }));
const head = Buffer.alloc(8);
head.write('ATLS');
head.writeUInt32LE(index.length, 4);
const file = Buffer.concat([head, index, deflateSync(Buffer.concat(blocks), { level: 9 })]);
writeFileSync(new URL('../atlas/atlas.bin', import.meta.url), file);
console.log(`${Object.keys(SPRITES).length} sprites, ${file.length} bytes`);
