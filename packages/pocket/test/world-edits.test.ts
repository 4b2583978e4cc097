import { Rng } from '@attune/engine';
import { describe, expect, test } from 'vitest';

import {
  clipCaption,
  type Edit,
  edited,
  editMask,
  HELD_OUT_OBJECTS,
  HELD_OUT_STYLES,
  HELD_OUT_TASKS,
  imageCaption,
  motionWords,
  renderClip,
  sampleEdit,
  sampleScene,
  type Scene,
  SIDE,
  type TaskName,
  TASKS,
  vocabulary,
} from '../src/index.ts';

const AREA = SIDE * SIDE;
const ALL_TASKS: readonly TaskName[] = [...TASKS, ...HELD_OUT_TASKS];
const plain = { style: undefined, global: undefined };

const draws = (task: TaskName, count: number, fixed: Partial<Scene> = {}): Edit[] => {
  const rng = Rng.of(31);
  return Array.from({ length: count }, () => sampleEdit(rng, task, fixed));
};

/** Largest change of a colour over the pixels that `where` picks by the two masks. */
function largestChange(
  { source, target }: Edit,
  where: (before: number, after: number) => boolean,
): number {
  const a = renderClip(source);
  const b = renderClip(target);
  let largest = 0;
  for (let i = 0; i < a.frames.length; i++) {
    const pixel = Math.floor(i / (3 * AREA)) * AREA + (i % AREA);
    if (where(a.masks[pixel], b.masks[pixel]))
      largest = Math.max(largest, Math.abs(a.frames[i] - b.frames[i]));
  }
  return largest;
}

describe('edits change what they should and nothing else', () => {
  test.each(ALL_TASKS)('%s changes the one field it is about', (task) => {
    const field = {
      add: 'hat',
      remove: 'hat',
      background: 'background',
      texture: 'texture',
      local: 'object',
      style: 'style',
      global: 'global',
      segment: 'drawing',
      sketch: 'drawing',
    }[task] as keyof Scene;
    for (const { source, target } of draws(task, 40)) {
      expect(target[field]).not.toBe(source[field]);
      expect(edited(target, { [field]: source[field] })).toEqual(source);
    }
  });

  test.each(['add', 'remove', 'texture', 'local', 'segment'] as const)(
    '%s leaves the background alone',
    (task) => {
      for (const edit of draws(task, 6)) {
        expect(largestChange(edit, (before, after) => before === 0 && after === 0)).toBe(0);
        expect(largestChange(edit, (before, after) => before + after > 0)).toBeGreaterThan(0.1);
      }
    },
  );

  test('texture and global keep the silhouette; add only enlarges it', () => {
    for (const task of ['texture', 'global'] as const)
      for (const { source, target } of draws(task, 4))
        expect(renderClip(target).masks).toEqual(renderClip(source).masks);
    for (const { source, target } of draws('add', 4, plain)) {
      const before = renderClip(source).masks;
      const after = renderClip(target).masks;
      expect(after.every((value, i) => value >= before[i] - 1e-6)).toBe(true);
    }
  });

  test('a new background leaves the object alone', () => {
    for (const edit of draws('background', 6, plain)) {
      expect(largestChange(edit, (before) => before > 0.9999)).toBeLessThan(0.001);
      expect(largestChange(edit, (before) => before === 0)).toBeGreaterThan(0.1);
    }
  });

  test('no edit changes where the object is', () => {
    for (const task of ALL_TASKS)
      for (const { source, target } of draws(task, 2))
        expect(renderClip(target).poses).toEqual(renderClip(source).poses);
  });

  test('the edit mask covers the change, and a hat is a small one', () => {
    for (const { source, target } of draws('add', 4, plain)) {
      const a = renderClip(source);
      const b = renderClip(target);
      const mask = editMask(a, b);
      const share = mask.reduce((sum, value) => sum + value, 0) / mask.length;
      expect(share).toBeGreaterThan(0.005);
      expect(share).toBeLessThan(0.2);
      expect(mask.every((changed, i) => changed === 0 || b.masks[i] > 0)).toBe(true);
    }
  });

  test('segment paints the whole object one colour', () => {
    for (const { target } of draws('segment', 3)) {
      const { frames, masks } = renderClip(target);
      const colours = new Set<string>();
      for (let i = 0; i < AREA; i++)
        if (masks[i] > 0.99999)
          colours.add([0, 1, 2].map((c) => frames[c * AREA + i].toFixed(3)).join());
      expect(colours.size).toBe(1);
    }
  });

  test('an edit drawn twice is the same; the next one is another', () => {
    expect(sampleEdit(Rng.of(3), 'local')).toEqual(sampleEdit(Rng.of(3), 'local'));
    const rng = Rng.of(3);
    expect(sampleEdit(rng, 'local')).not.toEqual(sampleEdit(rng, 'local'));
  });
});

describe('what is held out', () => {
  test('is never sampled', () => {
    const held = new Set<unknown>([...HELD_OUT_OBJECTS, ...HELD_OUT_STYLES]);
    const rng = Rng.of(17);
    const scenes = Array.from({ length: 2000 }, () => sampleScene(rng));
    for (const task of TASKS)
      for (const { source, target } of draws(task, 150)) scenes.push(source, target);
    const leaks = scenes.filter(
      ({ object, style, drawing }) => held.has(object) || held.has(style) || drawing !== undefined,
    );
    expect(leaks).toEqual([]);
  });

  test('can be asked for', () => {
    const rng = Rng.of(17);
    expect(sampleScene(rng, { object: 'dog', style: 'line art' })).toMatchObject({
      object: 'dog',
      style: 'line art',
    });
    expect(sampleEdit(rng, 'add', { object: 'robot' }).target.object).toBe('robot');
  });

  test('everything else turns up', () => {
    const rng = Rng.of(4);
    const seen = new Set<unknown>();
    for (let i = 0; i < 1500; i++)
      for (const value of Object.values(sampleScene(rng))) seen.add(value);
    const expected = 'lion teddy beach city left still golden stone top-hat helmet night fog sepia';
    for (const name of expected.split(' ')) expect(seen).toContain(name.replace('-', ' '));
  });
});

describe('words', () => {
  test('captions read well', () => {
    const lion: Scene = {
      object: 'lion',
      texture: 'golden',
      hat: 'top hat',
      background: 'night',
      motion: 'left',
      amount: 0,
      x: 32,
      y: 36,
      size: 40,
      seed: 0,
    };
    expect(imageCaption(lion)).toBe('a golden lion with a top hat under a night sky');
    expect(clipCaption(lion)).toBe(
      'a golden lion with a top hat under a night sky sliding to the left',
    );
    expect(imageCaption({ ...lion, object: 'owl', texture: 'icy', style: 'pixel art' })).toBe(
      'pixel art of an icy owl with a top hat under a night sky',
    );
    expect(imageCaption(edited(lion, { texture: undefined, hat: undefined, drawing: 'red' }))).toBe(
      'a lion painted red under a night sky',
    );
  });

  test('instructions read well', () => {
    const rng = Rng.of(8);
    const some = ALL_TASKS.map((task) => {
      const { instruction, source, target } = sampleEdit(rng, task);
      return `${imageCaption(source)} | ${instruction} | ${imageCaption(target)}`;
    });
    expect(some).toMatchInlineSnapshot(`
      [
        "an icy sailboat in the desert | make the sailboat wear a helmet | an icy sailboat with a helmet in the desert",
        "a whale with a sun hat under a night sky | take off the sun hat | a whale under a night sky",
        "a stone panda in a meadow | put the panda in the snow | a stone panda in the snow",
        "a balloon with a cap in a city | turn the balloon into stone | a stone balloon with a cap in a city",
        "a teddy bear under a night sky | replace the teddy bear with a rabbit | a rabbit under a night sky",
        "a balloon in a meadow | change the style to pixel art | pixel art of a balloon in a meadow",
        "a bus at sunset | change the picture to sepia tones | a bus at sunset in sepia",
        "a turtle under a night sky | make the turtle blue | a turtle painted blue under a night sky",
        "a stone strawberry in the snow | make it a pencil sketch | a sketch of a stone strawberry in the snow",
      ]
    `);
  });

  test('only clip captions speak of motion', () => {
    const moving = new Set(motionWords());
    const rng = Rng.of(2);
    for (let i = 0; i < 300; i++) {
      const drawn = sampleScene(rng);
      const has = (caption: string) => caption.split(' ').some((word) => moving.has(word));
      expect(has(imageCaption(drawn, rng))).toBe(false);
      expect(has(clipCaption(drawn, rng))).toBe(true);
    }
  });

  test('the vocabulary is small and holds every word', () => {
    const words = vocabulary();
    expect(words.length).toBeLessThan(200);
    const known = new Set(words);
    expect(known.size).toBe(words.length);
    const rng = Rng.of(6);
    const texts = ALL_TASKS.flatMap((task) =>
      draws(task, 80).flatMap(({ instruction, caption, motionCaption, sourceCaption }) => [
        instruction,
        caption,
        motionCaption,
        sourceCaption,
      ]),
    );
    texts.push(
      ...HELD_OUT_OBJECTS.map((object) => clipCaption(sampleScene(rng, { object }), rng)),
      ...HELD_OUT_STYLES.map((style) => clipCaption(sampleScene(rng, { style }), rng)),
    );
    expect(texts.filter((text) => !/^[a-z]+( [a-z]+)*$/.test(text))).toEqual([]);
    expect(texts.flatMap((text) => text.split(' ')).filter((word) => !known.has(word))).toEqual([]);
  });
});
