/** What the world holds, and what of it no training may see. */

/** Objects of the training set. */
export const OBJECTS = [
  'lion',
  'cat',
  'pig',
  'frog',
  'panda',
  'elephant',
  'whale',
  'penguin',
  'owl',
  'rabbit',
  'turtle',
  'octopus',
  'butterfly',
  'crab',
  'dinosaur',
  'apple',
  'banana',
  'strawberry',
  'watermelon',
  'pear',
  'car',
  'bus',
  'rocket',
  'train',
  'sailboat',
  'balloon',
  'ball',
  'teddy',
] as const;
/** Subjects of the held-out LoRAs. */
export const HELD_OUT_OBJECTS = ['dog', 'robot'] as const;

/** What the tasks `add` and `remove` put on an object and take off. */
export const HATS = ['top hat', 'crown', 'cap', 'sun hat', 'helmet'] as const;
/** What an object can be made of. */
export const TEXTURES = ['golden', 'icy', 'stone'] as const;
/** What is behind an object. */
export const BACKGROUNDS = [
  'beach',
  'meadow',
  'night',
  'desert',
  'snow',
  'ocean',
  'sunset',
  'city',
] as const;

/** Styles of the training set. */
export const STYLES = ['pixel art'] as const;
/** Styles of the held-out LoRAs. */
export const HELD_OUT_STYLES = ['line art', 'sticker'] as const;

/** Changes of a whole picture. */
export const GLOBALS = ['night', 'fog', 'sepia'] as const;
/** How an object moves through a clip. */
export const MOTIONS = ['left', 'right', 'bounce', 'grow', 'shrink', 'spin', 'still'] as const;
/** Colours of the segmentation task. */
export const PAINTS = ['red', 'green', 'blue'] as const;

/** The paper's seven editing tasks. */
export const TASKS = [
  'add',
  'remove',
  'background',
  'texture',
  'local',
  'style',
  'global',
] as const;
/** Tasks that are only ever composed, never trained on. */
export const HELD_OUT_TASKS = ['segment', 'sketch'] as const;

/** An object, held-out ones included. */
export type ObjectName = (typeof OBJECTS)[number] | (typeof HELD_OUT_OBJECTS)[number];
/** One of HATS. */
export type HatName = (typeof HATS)[number];
/** One of TEXTURES. */
export type TextureName = (typeof TEXTURES)[number];
/** One of BACKGROUNDS. */
export type BackgroundName = (typeof BACKGROUNDS)[number];
/** A style, held-out ones included. */
export type StyleName = (typeof STYLES)[number] | (typeof HELD_OUT_STYLES)[number];
/** One of GLOBALS. */
export type GlobalName = (typeof GLOBALS)[number];
/** One of MOTIONS. */
export type MotionName = (typeof MOTIONS)[number];
/** One of PAINTS. */
export type PaintName = (typeof PAINTS)[number];
/** A task, held-out ones included. */
export type TaskName = (typeof TASKS)[number] | (typeof HELD_OUT_TASKS)[number];

/** Where a hat sits: its brim's centre and width in units of the object's box, and its tilt in degrees, clockwise. */
export interface HatSeat {
  readonly x: number;
  readonly y: number;
  readonly width: number;
  readonly tilt: number;
}

const seat = (x: number, y: number, width: number, tilt = 0): HatSeat => ({ x, y, width, tilt });

/** The seat on top of every object; (0, 0) is the box's upper left corner, (1, 1) its lower right. */
export const SEATS: { readonly [name in ObjectName]: HatSeat } = {
  lion: seat(0.5, 0.13, 0.56),
  cat: seat(0.18, 0.21, 0.4),
  pig: seat(0.25, 0.31, 0.44),
  frog: seat(0.5, 0.14, 0.5),
  panda: seat(0.5, 0.14, 0.52),
  elephant: seat(0.27, 0.16, 0.46),
  whale: seat(0.34, 0.37, 0.5, -4),
  penguin: seat(0.5, 0.13, 0.46),
  owl: seat(0.5, 0.11, 0.5),
  rabbit: seat(0.5, 0.4, 0.5),
  turtle: seat(0.56, 0.42, 0.42),
  octopus: seat(0.5, 0.14, 0.5),
  butterfly: seat(0.5, 0.25, 0.42),
  crab: seat(0.5, 0.32, 0.44),
  dinosaur: seat(0.3, 0.11, 0.42),
  apple: seat(0.52, 0.22, 0.5),
  banana: seat(0.59, 0.1, 0.36),
  strawberry: seat(0.5, 0.2, 0.5),
  watermelon: seat(0.3, 0.2, 0.4, -12),
  pear: seat(0.5, 0.19, 0.42, -6),
  car: seat(0.56, 0.25, 0.44),
  bus: seat(0.5, 0.2, 0.5),
  rocket: seat(0.8, 0.14, 0.4, 40),
  train: seat(0.74, 0.16, 0.4),
  sailboat: seat(0.47, 0.1, 0.36),
  balloon: seat(0.62, 0.1, 0.48, 8),
  ball: seat(0.5, 0.1, 0.54),
  teddy: seat(0.5, 0.11, 0.42),
  dog: seat(0.5, 0.12, 0.54),
  robot: seat(0.5, 0.13, 0.52),
};

/** How each hat is worn: the point of its sprite that sits on the seat, and the sprite's box per unit of brim width. */
export const HAT_FITS: {
  readonly [name in HatName]: { readonly x: number; readonly y: number; readonly scale: number };
} = {
  'top hat': { x: 0.5, y: 0.8, scale: 1.15 },
  crown: { x: 0.5, y: 0.84, scale: 0.98 },
  cap: { x: 0.55, y: 0.72, scale: 1.15 },
  'sun hat': { x: 0.5, y: 0.74, scale: 1.3 },
  helmet: { x: 0.515, y: 0.62, scale: 1.3 },
};
