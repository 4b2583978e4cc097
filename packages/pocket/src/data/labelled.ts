/** Frames with what they show, for the judges; soiled a little, as a decoder would. */

import type { DataSource } from '@attune/core';
import { i64, type Rng } from '@attune/engine';
import { z } from 'zod';

import { HEAD_NAMES, HEADS, labelOf } from '../judge/labels.ts';
import {
  BACKGROUNDS,
  GLOBALS,
  HATS,
  HELD_OUT_STYLES,
  STYLES,
  TASKS,
  TEXTURES,
} from '../world/catalogue.ts';
import { sampleEdit } from '../world/edits.ts';
import { FRAMES } from '../world/motion.ts';
import { AREA, type Picture, SIDE } from '../world/paint.ts';
import { renderFrame } from '../world/render.ts';
import { BRIGHT, edited, type Scene, sampleScene } from '../world/scene.ts';

export const LabelledOptions = z.strictObject({
  /** Share of frames that are blurred or made noisy. */
  soiled: z.number().min(0).max(1).default(0.7),
});

/** `pixels` [N, 3, 64, 64] in [-1, 1] and a `label.<head>` [N] for each head: one random frame per id. */
export const labelled = ({ soiled }: z.infer<typeof LabelledOptions>): DataSource => ({
  dims: { F: 1, H: SIDE, W: SIDE },
  batch: (ids, rng) => {
    const data = new Float32Array(ids.length * 3 * AREA);
    const scenes = ids.map((id, k) => {
      const draw = rng.fork(id);
      const scene = sampleLabelled(draw);
      const { pixels } = renderFrame(scene, draw.int(FRAMES));
      if (draw.uniform() < soiled) soil(pixels, draw.fork('soil'));
      for (let i = 0; i < pixels.length; i++) data[k * 3 * AREA + i] = 2 * pixels[i] - 1;
      return scene;
    });
    const labels = HEAD_NAMES.map((head) => {
      const column = scenes.map((scene) => labelOf(scene, head));
      return [`label.${head}`, i64(column, [ids.length])];
    });
    return {
      pixels: { dtype: 'f32', shape: [ids.length, 3, SIDE, SIDE], data },
      ...Object.fromEntries(labels),
    };
  },
});

/**
 * A scene that a judge may meet, held-out objects and styles included: half of them sources and
 * targets of edits, half drawn more evenly over the classes than the training world is.
 */
export function sampleLabelled(rng: Rng): Scene {
  const object = rng.pick(HEADS.object);
  if (rng.uniform() < 0.5) {
    const edit = sampleEdit(rng, rng.pick(TASKS));
    const scene = rng.uniform() < 0.3 ? edit.source : edit.target;
    return edited(scene, { object });
  }
  const some = <T>(share: number, names: readonly T[]): T | undefined =>
    rng.uniform() < share ? rng.pick(names) : undefined;
  const style = some(0.35, [...STYLES, ...HELD_OUT_STYLES]);
  const look = style ? undefined : some(0.4, GLOBALS);
  return sampleScene(rng, {
    object,
    hat: some(0.5, HATS),
    texture: look === 'sepia' ? undefined : some(0.4, TEXTURES),
    background: rng.pick(look === 'night' ? BRIGHT : BACKGROUNDS),
    style,
    global: look,
  });
}

/** Sides of the cells that share their noise: pixels, and the cells of latents. */
const CELLS = [1, 4] as const;

/** Blurs a picture a little and adds noise to it, fine and coarse, in place: what an autoencoder may do. */
function soil(picture: Picture, rng: Rng): void {
  const blurs = rng.int(3);
  for (let i = 0; i < blurs; i++) soften(picture, rng.uniform());
  for (const cell of CELLS) {
    const deviation = 0.05 * rng.uniform();
    const side = SIDE / cell;
    const { data } = rng.normals([3, side, side]);
    for (let i = 0; i < picture.length; i++) {
      const c = Math.floor(i / AREA);
      const y = Math.floor((i % AREA) / SIDE / cell);
      const x = Math.floor((i % SIDE) / cell);
      picture[i] += deviation * data[(c * side + y) * side + x];
    }
  }
}

/** Mixes a picture with its binomial blur (1 2 1), rows then columns, in place. */
function soften(picture: Picture, share: number): void {
  for (const [stride, position] of [
    [1, (i: number) => i % SIDE],
    [SIDE, (i: number) => Math.floor((i % AREA) / SIDE)],
  ] as const) {
    const sharp = picture.slice();
    for (let i = 0; i < picture.length; i++) {
      const at = position(i);
      const before = at > 0 ? sharp[i - stride] : sharp[i];
      const after = at < SIDE - 1 ? sharp[i + stride] : sharp[i];
      picture[i] += share * 0.25 * (before + after - 2 * sharp[i]);
    }
  }
}
