/** From a scene to its pixels, its masks and its flow. */

import { Rng } from '@attune/engine';

import { paintBackground } from './backgrounds.ts';
import { type PaintName } from './catalogue.ts';
import { rgb, type Rgb } from './colour.ts';
import { buildFigure, drawFigure, type Figure } from './figure.ts';
import {
  applyGlobal,
  bleached,
  fogBank,
  outlined,
  pixelBackdrop,
  pixelFigure,
  sketched,
} from './looks.ts';
import { FRAMES, type Pose, poseAt, writeFlow } from './motion.ts';
import { AREA, blend, type Picture, SIDE } from './paint.ts';
import { type Scene } from './scene.ts';

/** A rendered scene. */
export interface Clip {
  /** [FRAMES, 3, SIDE, SIDE] in [0, 1] */
  readonly frames: Float32Array;
  /** [FRAMES, SIDE, SIDE] opacity of the object with its hat (and a sticker's border) */
  readonly masks: Float32Array;
  /** [FRAMES − 1, 2, SIDE, SIDE] px from frame i to i + 1: exact inside the object (mask ≥ ½), zero elsewhere */
  readonly flow: Float32Array;
  readonly poses: readonly Pose[];
}

/** One frame of a scene. */
export interface Frame {
  /** [3, SIDE, SIDE] in [0, 1] */
  readonly pixels: Picture;
  /** [SIDE, SIDE] */
  readonly mask: Float32Array;
}

/** What the frames of a scene share. */
interface Stage {
  readonly scene: Scene;
  readonly backdrop: Picture;
  readonly figure: Figure;
  readonly fog: Float32Array;
  /** The backdrop as pixel art, with the global look; unless that is the style, empty. */
  readonly blocks: Picture;
}

const PAINT: { readonly [name in PaintName]: Rgb } = {
  red: rgb('#f01818'),
  green: rgb('#12c92c'),
  blue: rgb('#1438f0'),
};

function setStage(scene: Scene): Stage {
  const details = Rng.of(scene.seed);
  const backdrop = paintBackground(scene.background, details.fork('background'));
  if (scene.style === 'line art') outlined(backdrop);
  if (scene.style === 'sticker') bleached(backdrop);
  const foggy = scene.global === 'fog';
  const fog = foggy ? fogBank(details.fork('fog').int(2 ** 20)) : new Float32Array(0);
  const blocks = scene.style === 'pixel art' ? backdrop.slice() : new Float32Array(0);
  if (blocks.length > 0) {
    if (scene.global) applyGlobal(blocks, scene.global, fog);
    pixelBackdrop(blocks);
  }
  return { scene, backdrop, figure: buildFigure(scene), fog, blocks };
}

/** Fills `pixels` and `mask`, which must be zero. */
function shoot(stage: Stage, pose: Pose, { pixels, mask }: Frame): void {
  const { scene, backdrop, figure, fog, blocks } = stage;
  pixels.set(backdrop);
  drawFigure(pixels, mask, figure, pose);
  if (scene.global) applyGlobal(pixels, scene.global, fog);
  if (scene.style === 'pixel art') pixelFigure(pixels, mask, blocks);
  if (scene.drawing === 'sketch') sketched(pixels);
  else if (scene.drawing)
    for (let i = 0; i < AREA; i++)
      blend(pixels, i % SIDE, Math.floor(i / SIDE), PAINT[scene.drawing], mask[i]);
}

/** Frame f of a scene, equal to that frame of `renderClip`. */
export function renderFrame(scene: Scene, f: number): Frame {
  const frame = { pixels: new Float32Array(3 * AREA), mask: new Float32Array(AREA) };
  shoot(setStage(scene), poseAt(scene, f), frame);
  return frame;
}

/** All frames of a scene, with their exact masks and flow. */
export function renderClip(scene: Scene): Clip {
  const stage = setStage(scene);
  const poses = Array.from({ length: FRAMES }, (_, f) => poseAt(scene, f));
  const frames = new Float32Array(FRAMES * 3 * AREA);
  const masks = new Float32Array(FRAMES * AREA);
  const flow = new Float32Array((FRAMES - 1) * 2 * AREA);
  for (const [f, pose] of poses.entries()) {
    const mask = masks.subarray(f * AREA, (f + 1) * AREA);
    shoot(stage, pose, { pixels: frames.subarray(f * 3 * AREA, (f + 1) * 3 * AREA), mask });
    if (f + 1 < FRAMES)
      writeFlow(flow.subarray(f * 2 * AREA, (f + 1) * 2 * AREA), mask, pose, poses[f + 1]);
  }
  return { frames, masks, flow, poses };
}
