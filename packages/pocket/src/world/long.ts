/** Clips of any length: the motion of a scene goes there and back, again and again. */

import { FRAMES, writeFlow } from './motion.ts';
import { AREA } from './paint.ts';
import { type Clip, renderClip } from './render.ts';
import { type Scene } from './scene.ts';

/** The scene's own frame that frame f of a long clip shows: 0, 1 … 7, 6 … 0, 1 … */
export function momentOf(f: number): number {
  const last = FRAMES - 1;
  return last - Math.abs((f % (2 * last)) - last);
}

/**
 * `count` frames of a scene, with exact masks and flow; as in `renderClip`, of which it is the
 * beginning up to 8 frames. Neighbouring frames differ by one step of the scene's motion, forwards or
 * backwards; nothing else changes, so what jumps from one to the next was put there by an edit.
 */
export function renderLong(scene: Scene, count: number): Clip {
  const once = renderClip(scene);
  const moments = Array.from({ length: count }, (_, f) => momentOf(f));
  const frames = new Float32Array(count * 3 * AREA);
  const masks = new Float32Array(count * AREA);
  const flow = new Float32Array(Math.max(0, count - 1) * 2 * AREA);
  for (const [f, moment] of moments.entries()) {
    const mask = once.masks.subarray(moment * AREA, (moment + 1) * AREA);
    frames.set(once.frames.subarray(moment * 3 * AREA, (moment + 1) * 3 * AREA), f * 3 * AREA);
    masks.set(mask, f * AREA);
    if (f + 1 < count)
      writeFlow(
        flow.subarray(f * 2 * AREA, (f + 1) * 2 * AREA),
        mask,
        once.poses[moment],
        once.poses[moments[f + 1]],
      );
  }
  return { frames, masks, flow, poses: moments.map((moment) => once.poses[moment]) };
}
