/** Hostile stack files and locks: read, or one clear error, soon. */

import { writeFileSync } from 'node:fs';

import { parseYaml, readLock, StackFile } from '@attune/core';
import { AttuneError, Rng } from '@attune/engine';
import { describe, expect, test } from 'vitest';

import { at, bomb, mutated, nested, scrawled } from './hostile-scene.ts';

/** The error of a stack file's text; undefined where it is read. */
function refusal(text: string): string | undefined {
  try {
    parseYaml(StackFile, text, 'stack.yaml');
    return undefined;
  } catch (error) {
    if (!AttuneError.is(error)) throw error;
    return error.message;
  }
}

describe('stack files', () => {
  test.each<[string, string, RegExp]>([
    ['an anchor bomb', `backbone: ./m\n${bomb}`, /alias/i],
    ['an alias inside its own anchor', 'backbone: &a [*a]', /alias|circular|backbone/i],
    ['an alias to nothing', 'backbone: *nowhere', /alias/i],
    ['nested without end', `backbone: ${nested(50_000)}`, /stack|deep|nest|backbone/i],
    ['an unknown tag', 'backbone: !!python/object/apply:os.system [true]', /backbone/],
    ['a merge key', '%YAML 1.1\n---\nx: &x {backbone: a}\n<<: *x\n', /unknown key "x"/],
    ['a mapping twice', 'backbone: a\nbackbone: b\n', /unique/i],
    ['a megabyte', `backbone: ${'x'.repeat(2 ** 20)}`, /at most/],
    ['very many keys', `backbone: a\n${keys(20_000)}`, /unknown key/],
    ['no text', '\0\u0001\u0002', /stack\.yaml/],
    ['two documents', 'backbone: a\n---\nbackbone: b\n', /documents/],
    ['nothing', '', /stack\.yaml/],
  ])('%s', (_, text, message) => {
    expect(refusal(text)).toMatch(message);
  });

  test('prototype keys change nothing', () => {
    for (const key of ['__proto__', 'constructor', 'prototype']) {
      const text = `backbone: a\nadapters:\n  - { use: lora, ${key}: { strength: nonsense, name: 7 } }\n`;
      const stack =
        refusal(text) === undefined ? parseYaml(StackFile, text, 'stack.yaml') : undefined;
      expect(stack?.adapters[0].strength).toBeUndefined();
      expect(stack?.adapters[0].name).toBeUndefined();
      expect(Object.hasOwn(Object.prototype, 'strength')).toBe(false);
    }
  });

  test('300 damaged ones', () => {
    let refused = 0;
    const good = `backbone: ./sd15\nschedule: { beta_schedule: linear }\nadapters:\n  - { name: look, use: lora, from: ./l.safetensors, strength: { default: 1, unet.mid_block: { scale: 2, during: [0, 1] } } }\nsampling: { steps: 4 }\n`;
    for (let i = 0; i < 300; i++) {
      const rng = Rng.of(23).fork(i);
      let text = good;
      for (let k = rng.int(4); k >= 0; k--) text = scrawled(text, rng);
      if (refusal(text) !== undefined) refused++;
    }
    expect(refused).toBeGreaterThan(100);
  });

  test('locks: changed values, nested without end', () => {
    const lock = at('locked.lock.json');
    const good = `{"version":1,"backbone":{"use":"a","license":null,"files":{"a":{"size":1,"sha256":"x"}}},"schedule":{"a":1},"order":["l"],"adapters":{"l":{"use":"lora","plugin":"p","strength":1,"train":false,"stills":true,"options":{},"trained_with":null,"license":null,"files":{}}},"plugins":{},"license":{"strictest":null,"asks":null,"unknown":[]}}`;
    for (let i = 0; i < 200; i++) {
      writeFileSync(lock, mutated(good, Rng.of(24).fork(i)));
      try {
        readLock(at('locked.yaml'));
      } catch (error) {
        if (!AttuneError.is(error)) throw error;
      }
    }
    writeFileSync(lock, good.replace('"a":1', `"a":${nested(10_000)}`));
    expect(() => readLock(at('locked.yaml'))).toThrow(/nests its values/);
  });
});

function keys(count: number): string {
  return Array.from({ length: count }, (_, i) => `k${i}: 1\n`).join('');
}
