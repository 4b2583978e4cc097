/** A scene: everything about a clip, as plain data; and how scenes are drawn by chance. */

import { type Rng } from '@attune/engine';

import {
  type BackgroundName,
  BACKGROUNDS,
  type GlobalName,
  GLOBALS,
  type HatName,
  HATS,
  type MotionName,
  MOTIONS,
  type ObjectName,
  OBJECTS,
  type PaintName,
  type StyleName,
  STYLES,
  type TextureName,
  TEXTURES,
} from './catalogue.ts';

/** A clip of the world. Two scenes that differ in one field are exact twins in everything else. */
export interface Scene {
  readonly object: ObjectName;
  readonly hat?: HatName | undefined;
  /** What the object is made of; its hat stays as it is. */
  readonly texture?: TextureName | undefined;
  readonly background: BackgroundName;
  readonly style?: StyleName | undefined;
  readonly global?: GlobalName | undefined;
  /** The held-out tasks: the object painted one colour, or the whole frame as a pencil sketch. */
  readonly drawing?: PaintName | 'sketch' | undefined;
  readonly motion: MotionName;
  /** How far the motion goes, in [-1, 1]; the sign is the direction of a spin, elsewhere unused. */
  readonly amount: number;
  /** Centre of the motion, px. */
  readonly x: number;
  readonly y: number;
  /** Side of the object's box at its natural scale, px. */
  readonly size: number;
  /** Stream of the background's details. */
  readonly seed: number;
}

/** Fields to hold while the others are drawn; `undefined` holds a field empty. */
export type Fixed = Partial<Scene>;

/** Backgrounds bright enough for the look of night to show. */
export const BRIGHT: readonly BackgroundName[] = BACKGROUNDS.filter(
  (name) => name !== 'night' && name !== 'sunset',
);

/** A random scene of the training world: `rng` advances by one draw, whatever is fixed. */
export function sampleScene(rng: Rng, fixed: Fixed = {}): Scene {
  const draw = rng.fork('scene', rng.int(2 ** 32));
  const drawn: Scene = {
    object: draw.pick(OBJECTS),
    background: draw.pick(BACKGROUNDS),
    motion: draw.pick(MOTIONS),
    amount: 2 * draw.uniform() - 1,
    x: 29 + 6 * draw.uniform(),
    y: 36 + 4 * draw.uniform(),
    size: 36 + 8 * draw.uniform(),
    seed: draw.int(2 ** 31),
    hat: chance(draw, 0.35, HATS),
    texture: chance(draw, 0.3, TEXTURES),
    style: chance(draw, 0.1, STYLES),
    global: chance(draw, 0.15, GLOBALS),
    ...fixed,
  };
  const scene = compact(drawn);
  const tooDark = scene.global === 'night' && !BRIGHT.includes(scene.background);
  const tooMuch = scene.style !== undefined && scene.global !== undefined;
  const tooBrown = scene.texture !== undefined && scene.global === 'sepia';
  return !('global' in fixed) && (tooDark || tooMuch || tooBrown)
    ? edited(scene, { global: undefined })
    : scene;
}

/** The scene with some fields changed; a field set to undefined is gone. */
export const edited = (scene: Scene, change: Fixed): Scene => compact({ ...scene, ...change });

/** One of the items with probability p. */
function chance<T>(draw: Rng, p: number, items: readonly T[]): T | undefined {
  const yes = draw.uniform() < p;
  const item = draw.pick(items);
  return yes ? item : undefined;
}

/** Without the fields that are undefined, so that equal scenes are equal as JSON. */
const compact = (scene: Scene): Scene =>
  Object.fromEntries(
    Object.entries(scene).filter(([, value]) => value !== undefined),
  ) as unknown as Scene;
