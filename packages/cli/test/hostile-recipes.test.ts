/** Hostile recipes of `attune train` and `attune distill`: exit 2 and one message, and nothing is left behind. */

import { existsSync, readdirSync, writeFileSync } from 'node:fs';

import { parseYaml } from '@attune/core';
import { Rng } from '@attune/engine';
import { describe, expect, test } from 'vitest';
import { z } from 'zod';

import { at, bomb, commanded, evil, fixtures, mutated, nested, scrawled } from './hostile-scene.ts';

const backbone = `${fixtures}/unet/pocket`;
const look = { name: 'look', use: 'lora', from: `${fixtures}/compose/pocket/look.safetensors` };
const align = { name: 'align', use: 'lora', rank: 2, train: true, strength: 0.5 };
const edit = { use: 'edit', from: `${fixtures}/compose/pocket/edit` };
const view = {
  encoder_hidden_states: 'text.caption',
  'edit.encoder_hidden_states': 'text.instruction',
  'edit.image': 'source',
};

/** Recipes that run, with most of the keys there are. */
const recipes = {
  train: {
    stack: { backbone, schedule: { beta_schedule: 'linear' }, adapters: [look, align] },
    fresh: ['align.**'],
    objective: { use: 'denoise', encoder: 'vae_encoder', text_encoder: 'text_encoder', shift: 2 },
    data: { use: 'pocket/captioned', frames: 'one', drop: 0.1 },
    train: {
      steps: 1,
      batch: 2,
      micro: 1,
      lr: 1e-3,
      betas: [0.9, 0.99],
      schedule: 'cosine',
      clip: 1,
      ema: 0.9,
      seed: 3,
      validation: { every: 1, samples: 2 },
    },
    samples: { every: 1, prompts: ['a dog'], steps: 2 },
    checkpoint: { every: 1, keep: 1 },
    save: 'f16',
  },
  distill: {
    distill: {
      student: { stack: { backbone, adapters: [edit, align] }, view },
      teachers: {
        edit: {
          stack: { backbone, adapters: [edit] },
          view,
          weight: 0.5,
          guidance: { scale: 2, drop: ['encoder_hidden_states'] },
          sds: { lambda: 1, range: [0.1, 0.9], samples: 1 },
          critic: { width: 4, range: [0, 0.5] },
          sampling: { steps: 2 },
        },
      },
      rollout: { steps: 2, bins: 'k-bin', grad: { last: 1 } },
      phases: [{ until: 1 }, { until: 2, adversarial: true }],
      batch: 2,
      micro: 1,
      lr: 1e-4,
      clip: 1,
    },
    data: { use: 'pocket/edits', frames: 'one', length: 2 },
    checkpoint: { every: 1 },
  },
} as const;
type Command = keyof typeof recipes;

writeFileSync(at('taken'), 'a file, so that no run can be kept in it');

/** What becomes of a recipe whose run has no place: the last thing that is looked at before its first step. */
async function refused(command: Command, text: string): Promise<string> {
  writeFileSync(at('recipe.yaml'), text);
  const before = readdirSync(at('')).toSorted();
  const { status, said } = await commanded(command, at('recipe.yaml'), '--run', at('taken/run'));
  expect({ status, text: status === 2 ? '' : text }).toEqual({ status: 2, text: '' });
  expect(readdirSync(at('')).toSorted()).toEqual(before);
  return said;
}

const placeless = /No run can be kept/;

/** Runs a recipe to its end; whatever that is, it comes with one message at most, and what failed leaves nothing. */
async function ended(command: Command, text: string, name: string): Promise<number> {
  writeFileSync(at('recipe.yaml'), text);
  const run = at(`runs-${command}/${name}`);
  const { status } = await commanded(command, at('recipe.yaml'), '--run', run);
  expect([0, 1, 2]).toContain(status);
  const kept = existsSync(run) ? readdirSync(run) : [];
  if (status === 0) expect(kept).toContain('best');
  // A run that got somewhere has a checkpoint to go on from.
  else if (kept.length > 0) expect(kept).toContain('checkpoints');
  expect(kept.filter((entry) => /\.(part|tmp)|~$/.test(entry))).toEqual([]);
  return status;
}

/** What a recipe says it wants many of takes as long as it wants; these few are seconds. */
function isQuick(value: unknown, key = ''): boolean {
  if (typeof value === 'number')
    return !/^(steps|batch|micro|samples|until|every|length|rank|width)$/.test(key) || value <= 4;
  if (typeof value !== 'object' || value === null) return true;
  return Object.entries(value).every(([own, inner]) =>
    isQuick(inner, Array.isArray(value) ? key : own),
  );
}

const parsed = (text: string): unknown => parseYaml(z.unknown(), text, 'recipe.yaml');

/** The recipe with one of its keys gone, called otherwise, doubled, or one more beside it. */
function rekeyed(recipe: object, rng: Rng): unknown {
  const copy = structuredClone(recipe) as Record<string, unknown>;
  const places: Record<string, unknown>[] = [];
  const visit = (value: unknown): void => {
    if (typeof value !== 'object' || value === null) return;
    if (!Array.isArray(value) && Object.keys(value).length > 0)
      places.push(value as Record<string, unknown>);
    Object.values(value).forEach(visit);
  };
  visit(copy);
  const place = rng.pick(places);
  const key = rng.pick(Object.keys(place));
  const way = rng.int(4);
  if (way === 0) delete place[key];
  else if (way === 1) {
    place[`${key}s`] = place[key];
    delete place[key];
  } else if (way === 2) place[rng.pick(['x', 'use', 'from', 'train', ''])] = 7;
  else
    place[key] = rng.pick([null, [], {}, [place[key]], { [key]: place[key] }, 'none', -1, 1e300]);
  return copy;
}

describe.each(Object.keys(recipes) as Command[])('%s', (command) => {
  const recipe = recipes[command];

  test('the recipe itself is only refused for its place', async () => {
    expect(await refused(command, JSON.stringify(recipe))).toMatch(placeless);
  });

  test.each<[string, (rng: Rng) => string]>([
    ['changed values', (rng) => mutated(JSON.stringify(recipe), rng)],
    ['changed keys', (rng) => JSON.stringify(rekeyed(recipe, rng))],
    ['damaged text', (rng) => scrawled(JSON.stringify(recipe, null, 1), rng)],
  ])(
    '40 recipes with %s, of which some run',
    async (way, change) => {
      let [placed, others] = [0, 0];
      const statuses: number[] = [];
      for (let i = 0; i < 40; i++) {
        const text = change(Rng.of(26).fork(command, way, i));
        const said = await refused(command, text);
        if (placeless.test(said)) placed++;
        else others++;
        if (placeless.test(said) && statuses.length < 4 && isQuick(parsed(text)))
          statuses.push(await ended(command, text, `${way.slice(-4)}-${i}`));
      }
      expect(others).toBeGreaterThan(placed);
      expect(statuses.length).toBeGreaterThan(0);
      expect(Object.hasOwn(Object.prototype, 'polluted')).toBe(false);
    },
    240_000,
  );

  test('the recipe itself runs', async () => {
    expect(await ended(command, JSON.stringify(recipe), 'itself')).toBe(0);
  }, 120_000);

  test.each<[string, string, RegExp]>([
    ['an anchor bomb', `data: 1\n${bomb}`, /alias/i],
    ['an alias inside its own anchor', `data: &a [*a]`, /alias|circular|data/i],
    ['nested without end', `data: ${nested(20_000)}`, /deep|nest|stack|data/i],
    ['a megabyte', `data: ${'x'.repeat(2 ** 20)}`, /at most/],
    ['no text', '\0\u0001', /recipe\.yaml/],
    ['nothing', '', /recipe\.yaml/],
    ['a list', '[1, 2]', /recipe\.yaml/],
    ['two documents', 'data: 1\n---\ndata: 2\n', /documents/],
  ])('%s', async (_, text, message) => {
    expect(await refused(command, text)).toMatch(message);
  });

  test('every value of a few is refused by the name of its key', async () => {
    const key = command === 'train' ? 'train' : 'distill';
    for (const value of evil.filter((text) => !/^[\d{]|null/.test(text))) {
      const text = JSON.stringify(recipe).replace('"batch":2', `"batch":${value}`);
      expect(await refused(command, text)).toMatch(new RegExp(`${key}\\.batch|recipe\\.yaml`));
    }
  });
});

test.each<[string, object, RegExp]>([
  ['a rank beyond that of any layer', { rank: 1e9 }, /rank/],
  ['a rank that no array could hold', { rank: Number.MAX_SAFE_INTEGER }, /rank/],
  ['a name with a dot', { name: 'a.b' }, /"a\.b"/],
  ['a target that is nowhere', { targets: 'unet.nowhere.*' }, /unet\.nowhere/],
  ['a target of no kind', { targets: 'nothing:unet.**' }, /"nothing:unet\.\*\*"/],
])('an adapter with %s', async (_, change, message) => {
  const { stack, ...rest } = recipes.train;
  const changed = { ...rest, stack: { ...stack, adapters: [{ ...align, ...change }] } };
  expect(await refused('train', JSON.stringify(changed))).toMatch(message);
});
