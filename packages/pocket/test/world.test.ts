import { createHash } from 'node:crypto';

import { Rng } from '@attune/engine';
import { describe, expect, test } from 'vitest';

import {
  BACKGROUNDS,
  FRAMES,
  GLOBALS,
  HATS,
  HELD_OUT_OBJECTS,
  HELD_OUT_STYLES,
  MOTIONS,
  OBJECTS,
  poseAt,
  renderClip,
  renderFrame,
  sampleScene,
  type Scene,
  SIDE,
  STYLES,
  TEXTURES,
} from '../src/index.ts';
import { parseAtlas, sprite } from '../src/world/atlas.ts';

const AREA = SIDE * SIDE;

const scene: Scene = {
  object: 'lion',
  background: 'beach',
  motion: 'left',
  amount: 0.5,
  x: 32,
  y: 37,
  size: 40,
  seed: 7,
};

/** A hash of the frames at 8 bits, so that a last bit of a sine does not show. */
function fingerprint(...clips: readonly Float32Array[]): string {
  const hash = createHash('sha256');
  for (const clip of clips) hash.update(Uint8Array.from(clip, (value) => Math.round(value * 255)));
  return hash.digest('hex').slice(0, 16);
}

/** True two pixels within the object. */
function wellWithin(masks: Float32Array, f: number, i: number): boolean {
  for (let dy = -2; dy <= 2; dy++)
    for (let dx = -2; dx <= 2; dx++) {
      const x = (i % SIDE) + dx;
      const y = Math.floor(i / SIDE) + dy;
      if (x < 0 || y < 0 || x >= SIDE || y >= SIDE) return false;
      if (masks[f * AREA + y * SIDE + x] < 0.99) return false;
    }
  return true;
}

/** Mean |frame f+1 at (p + flow) − frame f at p| over the object's inside. */
function warpError(drawn: Scene, still = false): number {
  const { frames, masks, flow } = renderClip(drawn);
  let sum = 0;
  let count = 0;
  for (let f = 0; f + 1 < FRAMES; f++)
    for (let i = 0; i < AREA; i++) {
      if (!wellWithin(masks, f, i)) continue;
      const x = (i % SIDE) + (still ? 0 : flow[f * 2 * AREA + i]);
      const y = Math.floor(i / SIDE) + (still ? 0 : flow[(f * 2 + 1) * AREA + i]);
      if (x < 0 || y < 0 || x > SIDE - 1.01 || y > SIDE - 1.01) continue;
      const left = Math.floor(x);
      const top = Math.floor(y);
      const u = x - left;
      const v = y - top;
      for (let c = 0; c < 3; c++) {
        const to = ((f + 1) * 3 + c) * AREA + top * SIDE + left;
        const there =
          (frames[to] * (1 - u) + frames[to + 1] * u) * (1 - v) +
          (frames[to + SIDE] * (1 - u) + frames[to + SIDE + 1] * u) * v;
        sum += Math.abs(there - frames[(f * 3 + c) * AREA + i]);
        count++;
      }
    }
  return sum / count;
}

describe('rendering', () => {
  test('a scene is the same picture for ever', () => {
    const looks: Scene[] = [
      scene,
      { ...scene, object: 'whale', hat: 'crown', texture: 'golden', motion: 'spin' },
      { ...scene, background: 'city', style: 'pixel art', texture: 'icy', motion: 'grow' },
      { ...scene, background: 'night', style: 'line art', hat: 'cap', motion: 'bounce' },
      { ...scene, background: 'snow', style: 'sticker', texture: 'stone', motion: 'shrink' },
      { ...scene, background: 'meadow', global: 'fog', motion: 'right' },
      { ...scene, background: 'ocean', global: 'night', motion: 'still' },
      { ...scene, background: 'desert', global: 'sepia' },
      { ...scene, background: 'sunset', drawing: 'sketch' },
    ];
    expect(looks.map((look) => fingerprint(renderClip(look).frames))).toMatchInlineSnapshot(`
      [
        "3223b3fa6ecd3a43",
        "7791be34c140d236",
        "e8a62b39ead4f2d2",
        "dd31c863031b704e",
        "36bbe72c2837f2c3",
        "759e6d906859d816",
        "ae0a7f24ea430260",
        "790992e269133624",
        "06f3e424ea6147b2",
      ]
    `);
  });

  test('the sampler draws the same scenes for ever', () => {
    const rng = Rng.of(2024);
    const scenes = Array.from({ length: 20 }, () => sampleScene(rng));
    const hash = createHash('sha256').update(JSON.stringify(scenes)).digest('hex');
    expect(hash.slice(0, 16)).toMatchInlineSnapshot(`"17182f10fa921a7f"`);
  });

  test('a frame alone equals that frame of the clip', () => {
    const rng = Rng.of(1);
    for (let i = 0; i < 6; i++) {
      const drawn = sampleScene(rng);
      const clip = renderClip(drawn);
      const frame = renderFrame(drawn, i);
      expect(frame.pixels).toEqual(clip.frames.slice(i * 3 * AREA, (i + 1) * 3 * AREA));
      expect(frame.mask).toEqual(clip.masks.slice(i * AREA, (i + 1) * AREA));
    }
  });

  test('every look stays in range and shows an object', () => {
    const all: Partial<Scene>[] = [
      ...[...OBJECTS, ...HELD_OUT_OBJECTS].map((object) => ({ object })),
      ...HATS.map((hat) => ({ hat })),
      ...TEXTURES.map((texture) => ({ texture })),
      ...BACKGROUNDS.map((background) => ({ background })),
      ...[...STYLES, ...HELD_OUT_STYLES].map((style) => ({ style })),
      ...GLOBALS.map((global) => ({ global })),
      { drawing: 'red' },
      { drawing: 'sketch' },
    ];
    const seen = new Set<string>();
    for (const change of all) {
      const { pixels, mask } = renderFrame({ ...scene, ...change }, 3);
      expect(pixels.every((value) => value >= 0 && value <= 1)).toBe(true);
      const share = mask.reduce((sum, value) => sum + value, 0) / AREA;
      expect(share).toBeGreaterThan(0.08);
      expect(share).toBeLessThan(0.45);
      seen.add(fingerprint(pixels));
    }
    expect(seen.size).toBe(all.length - 1); // the lion and the beach are both the plain scene
  });

  test('the seed changes the background and nothing else', () => {
    const one = renderFrame(scene, 0);
    const two = renderFrame({ ...scene, seed: 8 }, 0);
    expect(two.mask).toEqual(one.mask);
    let inside = 0;
    let outside = 0;
    for (let i = 0; i < AREA; i++) {
      const change = Math.abs(one.pixels[i] - two.pixels[i]);
      if (one.mask[i] > 0.999) inside = Math.max(inside, change);
      else if (one.mask[i] === 0) outside = Math.max(outside, change);
    }
    expect(inside).toBeLessThan(0.002);
    expect(outside).toBeGreaterThan(0.1);
  });

  test('rendering keeps up with training', () => {
    const rng = Rng.of(5);
    const scenes = Array.from({ length: 30 }, () => sampleScene(rng));
    for (const warm of scenes.slice(0, 5)) renderClip(warm);
    const start = performance.now();
    for (const drawn of scenes) renderClip(drawn);
    const rate = (scenes.length * FRAMES * 1000) / (performance.now() - start);
    expect(rate).toBeGreaterThan(150); // about 2,000 on an idle core
  });
});

describe('motion and flow', () => {
  const smooth = { texture: undefined, style: undefined, global: undefined };

  test.each(MOTIONS)('the flow of %s carries each frame into the next', (motion) => {
    const rng = Rng.of(11);
    for (let i = 0; i < 5; i++) {
      const drawn = sampleScene(rng, { ...smooth, motion });
      expect(warpError(drawn)).toBeLessThan(0.03);
    }
  });

  test('without the flow the frames do not fit', () => {
    const drawn = { ...scene, object: 'ball', amount: 1 } as const;
    expect(warpError(drawn)).toBeLessThan(0.25 * warpError(drawn, true));
  });

  test.each(MOTIONS)('the flow of %s is zero where there is no object', (motion) => {
    const { flow, masks } = renderClip({ ...scene, motion });
    let still = 0;
    let moving = 0;
    for (let f = 0; f + 1 < FRAMES; f++)
      for (let i = 0; i < 2 * AREA; i++) {
        const size = Math.abs(flow[f * 2 * AREA + i]);
        if (masks[f * AREA + (i % AREA)] < 0.5) still = Math.max(still, size);
        else moving = Math.max(moving, size);
      }
    expect(still).toBe(0);
    expect(moving > 1).toBe(motion !== 'still');
  });

  test('the mask moves as its name says', () => {
    const at = (motion: Scene['motion'], f: number) => {
      const { mask } = renderFrame({ ...scene, motion }, f);
      let area = 0;
      let x = 0;
      let y = 0;
      for (let i = 0; i < AREA; i++) {
        area += mask[i];
        x += mask[i] * (i % SIDE);
        y += mask[i] * Math.floor(i / SIDE);
      }
      return { area, x: x / area, y: y / area };
    };
    const last = FRAMES - 1;
    expect(at('left', last).x).toBeLessThan(at('left', 0).x - 12);
    expect(at('right', last).x).toBeGreaterThan(at('right', 0).x + 12);
    expect(at('bounce', 2).y).toBeLessThan(at('bounce', 0).y - 6);
    expect(at('bounce', 5).y).toBeGreaterThan(at('bounce', 2).y + 4);
    expect(at('grow', last).area).toBeGreaterThan(1.8 * at('grow', 0).area);
    expect(at('shrink', last).area).toBeLessThan(0.55 * at('shrink', 0).area);
    expect(at('still', last)).toEqual(at('still', 0));
    expect(poseAt({ ...scene, motion: 'spin' }, last).angle).toBeGreaterThan(2.5);
    expect(poseAt({ ...scene, motion: 'spin', amount: -0.5 }, last).angle).toBeLessThan(-2.5);
  });

  test('a hat rides on the object', () => {
    const hatless = renderClip({ ...scene, motion: 'spin' });
    const hatted = renderClip({ ...scene, motion: 'spin', hat: 'top hat' });
    expect(hatted.poses).toEqual(hatless.poses);
    for (let i = 0; i < hatless.masks.length; i++)
      if (hatted.masks[i] < hatless.masks[i] - 1e-6) throw new Error(`the hat uncovers pixel ${i}`);
    expect(hatted.masks.reduce((a, b) => a + b)).toBeGreaterThan(
      1.08 * hatless.masks.reduce((a, b) => a + b),
    );
  });
});

describe('the atlas', () => {
  test('holds every object and hat', () => {
    for (const name of [...OBJECTS, ...HELD_OUT_OBJECTS, ...HATS]) {
      const { colour, ink } = sprite(name);
      expect(colour.some((value) => value > 0)).toBe(true);
      expect(ink.some((value) => value > 0)).toBe(true);
    }
    expect(() => sprite('unicorn')).toThrow('no sprite named unicorn');
  });

  test('refuses bytes that are not one', () => {
    expect(() => parseAtlas(new Uint8Array(3))).toThrow('not an atlas');
    expect(() => parseAtlas(new Uint8Array(64))).toThrow('not an atlas');
    const long = Buffer.from('ATLS\u00ff\u00ff\u0000\u0000{}', 'latin1');
    expect(() => parseAtlas(long)).toThrow('longer than the file');
  });
});
