import { describe, expect, test } from 'vitest';

import { parseYaml, StackFile } from '../src/stack/schema.ts';

const parse = (text: string) => parseYaml(StackFile, text, 'stack.yaml');

describe('a stack file', () => {
  test('fills in its defaults and keeps the options of an entry', () => {
    const stack = parse(`
backbone: pocket
adapters:
  - use: lora
    name: look
    from: look.safetensors
    strength: { default: 0.8, unet.up_blocks.1: 0.4 }
    rank: 4
  - { use: example/image-prompt, train: ['to_*'] }
`);
    expect(stack).toEqual({
      backbone: 'pocket',
      schedule: 'default',
      plugins: [],
      adapters: [
        {
          use: 'lora',
          name: 'look',
          from: 'look.safetensors',
          strength: { default: 0.8, 'unet.up_blocks.1': 0.4 },
          rank: 4,
        },
        { use: 'example/image-prompt', train: ['to_*'] },
      ],
    });
  });

  test.each([
    ['backbne: x\nbackbone: y', 'unknown key "backbne"; did you mean "backbone"?'],
    ['backbone: x\nadaptors: []', 'unknown key "adaptors"; did you mean "adapters"?'],
    ['backbone: x\nadapters: [{ from: a }]', 'adapters.0.use: '],
    ['backbone: x\nadapters: [{ use: lora, train: false }]', 'adapters.0.train: '],
    ['backbone: x\nadapters: [{ use: lora, strength: strong }]', 'adapters.0.strength: '],
    ['adapters: []', 'backbone: '],
    ['backbone: [', 'stack.yaml: '],
  ])('%j is refused with the place', (text, message) => {
    expect(() => parse(text)).toThrow(message);
    expect(() => parse(text)).toThrow(/^stack\.yaml: /);
  });
});
