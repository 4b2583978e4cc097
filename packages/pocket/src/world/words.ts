/** The world's language: captions and instructions over a small vocabulary, lower case, no punctuation. */

import { type Rng } from '@attune/engine';

import {
  type BackgroundName,
  type GlobalName,
  HATS,
  type MotionName,
  type ObjectName,
  OBJECTS,
  HELD_OUT_OBJECTS,
  PAINTS,
  type StyleName,
  type TaskName,
  type TextureName,
} from './catalogue.ts';
import { type Scene } from './scene.ts';

/** Several ways to say one thing; the first is the plain one. */
type Wordings = readonly [string, ...string[]];

/** Objects whose names are longer than their keys. */
const NOUNS: { readonly [name in ObjectName]?: string } = {
  ball: 'soccer ball',
  teddy: 'teddy bear',
  robot: 'toy robot',
};

/** Where a scene is, and the name of the place. */
const PLACES: { readonly [name in BackgroundName]: { where: Wordings; place: Wordings } } = {
  beach: { where: ['on a beach', 'at the beach'], place: ['a beach', 'the beach'] },
  meadow: { where: ['in a meadow', 'in a green meadow'], place: ['a meadow', 'a green meadow'] },
  night: {
    where: ['under a night sky', 'under the stars'],
    place: ['a night sky', 'a night sky with stars'],
  },
  desert: { where: ['in the desert', 'in a desert'], place: ['a desert', 'the desert'] },
  snow: { where: ['in the snow', 'on snowy hills'], place: ['snow', 'snowy hills'] },
  ocean: { where: ['in the ocean', 'on ocean waves'], place: ['the ocean', 'ocean waves'] },
  sunset: { where: ['at sunset', 'in front of a sunset'], place: ['a sunset', 'the sunset'] },
  city: { where: ['in a city', 'in the city'], place: ['a city', 'the city'] },
};

const MATERIALS: { readonly [name in TextureName]: { adjective: string; noun: string } } = {
  golden: { adjective: 'golden', noun: 'gold' },
  icy: { adjective: 'icy', noun: 'ice' },
  stone: { adjective: 'stone', noun: 'stone' },
};

const STYLE_PREFIXES: { readonly [name in StyleName]: Wordings } = {
  'pixel art': ['pixel art of', 'a pixel art picture of'],
  'line art': ['line art of', 'a line art picture of'],
  sticker: ['a sticker of', 'a sticker picture of'],
};
const PLAIN_PREFIXES: Wordings = ['', '', 'a picture of'];
const SKETCH_PREFIXES: Wordings = ['a sketch of', 'a pencil sketch of'];

const GLOBAL_SUFFIXES: { readonly [name in GlobalName]: Wordings } = {
  night: ['at night', 'in the dark'],
  fog: ['in fog', 'in the fog'],
  sepia: ['in sepia', 'in sepia tones'],
};

/** The words of motion; no image caption has one of them. */
const MOTION_PHRASES: { readonly [name in MotionName]: Wordings } = {
  left: ['sliding to the left', 'moving left'],
  right: ['sliding to the right', 'moving right'],
  bounce: ['bouncing', 'bouncing up and down'],
  grow: ['growing', 'growing bigger'],
  shrink: ['shrinking', 'getting smaller'],
  spin: ['spinning', 'spinning around'],
  still: ['standing still', 'not moving'],
};

const HAT_PHRASES: Wordings = ['with {a hat}', 'wearing {a hat}'];
const PAINT_PHRASES: Wordings = ['painted {paint}'];

/** Slots in braces are filled from the edit's target: see `instruct`. */
const INSTRUCTIONS: { readonly [name in TaskName]: Wordings } = {
  add: [
    'add {a hat}',
    'put {a hat} on the {object}',
    'give the {object} {a hat}',
    'make the {object} wear {a hat}',
  ],
  remove: ['remove the {hat}', 'take off the {hat}', 'take the {hat} off the {object}'],
  background: [
    'change the background to {place}',
    'replace the background with {place}',
    'put the {object} {where}',
    'move the {object} to {place}',
  ],
  texture: [
    'make the {object} {adjective}',
    'turn the {object} into {noun}',
    'make the {object} out of {noun}',
    'change the {object} to {noun}',
  ],
  local: [
    'turn the {source} into {an object}',
    'replace the {source} with {an object}',
    'change the {source} to {an object}',
    'swap the {source} for {an object}',
  ],
  style: ['make it {style}', 'turn it into {style}', 'change the style to {style}'],
  global: ['make it {look}', 'change the picture to {look}', 'turn it into {look}'],
  segment: ['paint the {object} {paint}', 'make the {object} {paint}'],
  sketch: ['turn it into a sketch', 'make it a pencil sketch', 'change the style to a sketch'],
};

const STYLE_NAMES: { readonly [name in StyleName]: string } = {
  'pixel art': 'pixel art',
  'line art': 'line art',
  sticker: 'a sticker',
};
const LOOKS: { readonly [name in GlobalName]: Wordings } = {
  night: ['night', 'a dark night'],
  fog: ['foggy', 'fog'],
  sepia: ['sepia', 'sepia tones'],
};

const article = (phrase: string): string =>
  /^[aeiou]/.test(phrase) ? `an ${phrase}` : `a ${phrase}`;
const nounOf = (object: ObjectName): string => NOUNS[object] ?? object;
const say = (wordings: Wordings, rng: Rng | undefined): string =>
  rng ? rng.pick(wordings) : wordings[0];
const join = (...parts: readonly string[]): string => parts.filter((part) => part !== '').join(' ');

/** "a golden lion with a top hat": the thing itself. */
function subject({ object, texture, hat, drawing }: Scene, rng: Rng | undefined): string {
  const noun = join(texture ? MATERIALS[texture].adjective : '', nounOf(object));
  const painted = drawing && drawing !== 'sketch';
  return join(
    article(noun),
    painted ? say(PAINT_PHRASES, rng).replace('{paint}', drawing) : '',
    hat ? say(HAT_PHRASES, rng).replace('{a hat}', article(hat)) : '',
  );
}

function prefix({ style, drawing }: Scene, rng: Rng | undefined): string {
  if (drawing === 'sketch') return say(SKETCH_PREFIXES, rng);
  return say(style ? STYLE_PREFIXES[style] : PLAIN_PREFIXES, rng);
}

/** What one frame shows, without a word of motion; without `rng`, the plain wording. */
export function imageCaption(scene: Scene, rng?: Rng): string {
  return join(
    prefix(scene, rng),
    subject(scene, rng),
    say(PLACES[scene.background].where, rng),
    scene.global ? say(GLOBAL_SUFFIXES[scene.global], rng) : '',
  );
}

/** What the clip shows and how it moves; without `rng`, the plain wording. */
export function clipCaption(scene: Scene, rng?: Rng): string {
  const motion = say(MOTION_PHRASES[scene.motion], rng);
  const early = rng !== undefined && rng.uniform() < 0.5;
  return join(
    prefix(scene, rng),
    subject(scene, rng),
    early ? motion : '',
    say(PLACES[scene.background].where, rng),
    scene.global ? say(GLOBAL_SUFFIXES[scene.global], rng) : '',
    early ? '' : motion,
  );
}

/** The instruction that leads from `source` to `target`; without `rng`, the plain wording. */
export function instruct(task: TaskName, source: Scene, target: Scene, rng?: Rng): string {
  const hat = target.hat ?? source.hat;
  const { place, where } = PLACES[target.background];
  const { texture, style, global: look, drawing } = target;
  const slots: Readonly<Record<string, string | undefined>> = {
    source: nounOf(source.object),
    object: nounOf(target.object),
    'an object': article(nounOf(target.object)),
    hat,
    'a hat': hat && article(hat),
    place: say(place, rng),
    where: say(where, rng),
    adjective: texture && MATERIALS[texture].adjective,
    noun: texture && MATERIALS[texture].noun,
    style: style && STYLE_NAMES[style],
    look: look && say(LOOKS[look], rng),
    paint: drawing,
  };
  return say(INSTRUCTIONS[task], rng).replaceAll(/\{([a-z ]+)\}/g, (_, slot: string) => {
    const filler = slots[slot];
    if (filler === undefined) throw new Error(`internal: ${task} has no ${slot}`);
    return filler;
  });
}

/** The words of motion alone. */
export const motionWords = (): string[] => {
  const still = wordsIn([PLACES, GLOBAL_SUFFIXES, HAT_PHRASES]);
  return [...wordsIn(MOTION_PHRASES)].filter((word) => !still.has(word)).toSorted();
};

/** Every word that a caption or an instruction can hold, held-out ones included, in order. */
export const vocabulary = (): string[] =>
  [
    ...wordsIn([
      'a an',
      [...OBJECTS, ...HELD_OUT_OBJECTS].map(nounOf),
      [HATS, PAINTS, PLACES, MATERIALS],
      [STYLE_PREFIXES, PLAIN_PREFIXES, SKETCH_PREFIXES, STYLE_NAMES],
      [GLOBAL_SUFFIXES, LOOKS, MOTION_PHRASES, HAT_PHRASES, PAINT_PHRASES, INSTRUCTIONS],
    ]),
  ].toSorted();

/** The words of all strings in a table, its slots left out. */
function wordsIn(table: unknown): Set<string> {
  if (typeof table === 'string')
    return new Set(
      table
        .replaceAll(/\{[a-z ]+\}/g, '')
        .split(' ')
        .filter(Boolean),
    );
  const words = new Set<string>();
  for (const entry of Object.values(table as object))
    for (const word of wordsIn(entry)) words.add(word);
  return words;
}
