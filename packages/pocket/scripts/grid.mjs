// Frames as one picture, twice as large: writeGrid(file, rows), rows of frames [3, 64, 64] in [0, 1];
// .png, or .webp, which is a tenth as large and loses a little.
import { mkdirSync } from 'node:fs';
import { dirname } from 'node:path';

import { SIDE } from '@attune/pocket';
import sharp from 'sharp';

const AREA = SIDE * SIDE;

export async function writeGrid(file, rows) {
  const width = Math.max(...rows.map((row) => row.length)) * SIDE;
  const height = rows.length * SIDE;
  const rgb = Buffer.alloc(width * height * 3, 255);
  rows.forEach((row, r) =>
    row.forEach((frame, c) => {
      for (let i = 0; i < 3 * AREA; i++) {
        const y = r * SIDE + Math.floor((i % AREA) / SIDE);
        const x = c * SIDE + (i % SIDE);
        const value = Math.min(1, Math.max(0, frame[i]));
        rgb[(y * width + x) * 3 + Math.floor(i / AREA)] = Math.round(255 * value);
      }
    }),
  );
  mkdirSync(dirname(file), { recursive: true });
  const picture = sharp(rgb, { raw: { width, height, channels: 3 } }).resize(
    width * 2,
    height * 2,
    {
      kernel: 'nearest',
    },
  );
  await (file.endsWith('.webp') ? picture.webp({ quality: 70 }) : picture.png()).toFile(file);
  console.log(`\nwrote ${file}`);
}
