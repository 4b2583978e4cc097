/** The memory that an edit takes does not grow with its clip. */

import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import sharp from 'sharp';
import { expect, test } from 'vitest';

const SIDE = 1536;
/** Bytes of one frame as its file's decoder gives it. */
const FRAME = 3 * SIDE * SIDE;

/** A folder of large frames, each of one colour. */
async function frames(count: number): Promise<string> {
  const folder = join(mkdtempSync(join(tmpdir(), 'length-')), 'frames');
  mkdirSync(folder);
  for (let i = 0; i < count; i++) {
    const background = { r: 40 + i, g: 120, b: 200 };
    await sharp({ create: { width: SIDE, height: SIDE, channels: 3, background } })
      .png()
      .toFile(join(folder, `${String(i).padStart(3, '0')}.png`));
  }
  return folder;
}

/** Most bytes that the command held while it edited a folder. */
function peak(folder: string): number {
  const report = 'process.on("exit",()=>console.error("peak",process.resourceUsage().maxRSS))';
  const edit = ['edit', folder, '-i', 'make it night', '--stack', 'pocket/plain', '--steps', '1'];
  const out = join(folder, '..', 'out.mp4');
  const { status, stderr } = spawnSync(
    process.execPath,
    [
      '--import',
      `data:text/javascript,${encodeURIComponent(report)}`,
      'packages/cli/bin/attune.js',
      ...edit,
      '-o',
      out,
      '--threads',
      '1',
    ],
    { encoding: 'utf8', timeout: 120_000 },
  );
  expect({ status, stderr }).toMatchObject({ status: 0 });
  return 1024 * Number(/peak (\d+)/.exec(stderr)![1]);
}

test('a hundred and fifty frames take as much as fifty', async () => {
  // By then what waits to be collected is as much as it gets, give or take some fifty megabytes.
  const [short, long] = [peak(await frames(50)), peak(await frames(150))];
  // 100 frames more would be 675 MiB as bytes and four times that as numbers.
  expect(long - short).toBeLessThan(16 * FRAME);
}, 300_000);
