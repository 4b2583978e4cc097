/** What a judge is asked about a frame: one question a head, its classes by name. */

import {
  BACKGROUNDS,
  GLOBALS,
  HATS,
  HELD_OUT_OBJECTS,
  HELD_OUT_STYLES,
  OBJECTS,
  STYLES,
  TEXTURES,
} from '../world/catalogue.ts';
import type { Scene } from '../world/scene.ts';

/**
 * Classes by head, in the order of the logits; `none` comes first where there may be none. Held-out
 * objects and styles are among them: a judge measures, nothing that is measured learns from it.
 */
export const HEADS = {
  object: [...OBJECTS, ...HELD_OUT_OBJECTS],
  background: BACKGROUNDS,
  hat: ['none', ...HATS],
  texture: ['none', ...TEXTURES],
  style: ['none', ...STYLES, ...HELD_OUT_STYLES],
  global: ['none', ...GLOBALS],
} as const satisfies Readonly<Record<string, readonly string[]>>;

/** A question. */
export type Head = keyof typeof HEADS;
/** All questions, in the order of HEADS. */
export const HEAD_NAMES = Object.keys(HEADS) as readonly Head[];

/** The class of a scene under one head, as an index. */
export const labelOf = (scene: Scene, head: Head): number =>
  (HEADS[head] as readonly string[]).indexOf(scene[head] ?? 'none');

/** The most likely class of every row of logits [N, classes]. */
export function argmaxRows(logits: Float32Array, classes: number): number[] {
  return Array.from({ length: logits.length / classes }, (_, row) => {
    let best = row * classes;
    for (let i = best + 1; i < (row + 1) * classes; i++) if (logits[i] > logits[best]) best = i;
    return best - row * classes;
  });
}
