/** `attune train` of the built command: what a run shows beside its log. */

import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

import { expect, test } from 'vitest';

const folder = mkdtempSync(join(tmpdir(), 'train-'));
const attune = resolve('packages/cli/bin/attune.js');

function train(recipe: string, ...more: readonly string[]) {
  const { status, stderr } = spawnSync(process.execPath, [attune, 'train', recipe, ...more], {
    cwd: folder,
    encoding: 'utf8',
    timeout: 120_000,
  });
  expect(stderr).not.toMatch(/\n\s+at |unexpected:/);
  return { status, stderr };
}

const recipe = (changes = '') => `
stack:
  backbone: ${resolve('packages/pocket/models')}
  adapters: [{ name: lora, use: lora, rank: 2, train: true }]
objective: { use: denoise, encoder: vae_encoder, text_encoder: text_encoder }
data: { use: pocket/captioned, object: dog }
train: { steps: 3, batch: 2, micro: 1, lr: 0.05, validation: { every: 2, samples: 2 } }
log_every: 1
${changes}`;

test('samples before, during and after; held-out loss in the log and on the terminal', () => {
  const file = join(folder, 'dog.yaml');
  writeFileSync(file, recipe("samples: { every: 2, prompts: ['a dog', 'a lion'], steps: 2 }"));
  const { status, stderr } = train(file, '--run', 'run');
  expect(status).toBe(0);
  expect(stderr).toMatch(/step 2\/3 {2}loss [\d.]+ {2}validation [\d.]+/);
  const names = readdirSync(join(folder, 'run', 'samples')).toSorted();
  expect(names).toEqual(['step-00000000.png', 'step-00000002.png', 'step-00000003.png']);
  const [before, , after] = names.map((name) => readFileSync(join(folder, 'run', 'samples', name)));
  expect(before.equals(after)).toBe(false);
  const log = readFileSync(join(folder, 'run', 'log.jsonl'), 'utf8')
    .trim()
    .split('\n');
  const held = log.map((line) => (JSON.parse(line) as Record<string, number>).validation_loss);
  expect(held).toEqual([undefined, expect.any(Number), expect.any(Number)]);
});

test('what cannot be sampled from prompts alone is refused before the first step', () => {
  const file = join(folder, 'edit.yaml');
  const editor = `{ use: edit, from: ${resolve('packages/pocket/adapters/edit')}, train: true }`;
  const samples = 'samples: { every: 2, prompts: [a dog], steps: 2 }';
  writeFileSync(
    file,
    recipe(samples)
      .replace(/adapters: .*/, `adapters: [${editor}]`)
      .replace(/data: .*/, 'data: { use: pocket/edits, frames: one }')
      .replace(
        'text_encoder: text_encoder }',
        'text_encoder: text_encoder, texts: { encoder_hidden_states: input_ids, edit.encoder_hidden_states: instruction_ids } }',
      ),
  );
  const { status, stderr } = train(file, '--run', 'edit');
  expect(status).toBe(2);
  expect(stderr).toMatch(/edit\.image/);
  expect(readdirSync(folder)).not.toContain('edit');
});
