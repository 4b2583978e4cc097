/** Recipes and runs of attune distill that cannot be: exit 1 or 2, one message, and what was there stays as it was. */

import { spawn, spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';

import { describe, expect, test } from 'vitest';

import { at, attune, backbone, bin, edit, refused, type Run } from './bad-scene.ts';

/** A recipe with one teacher on the fixtures, some lines replaced. */
function recipe(name: string, changes: Readonly<Record<string, string>> = {}): string {
  const view =
    '{ encoder_hidden_states: text.caption, edit.encoder_hidden_states: text.instruction, edit.image: source }';
  const lines: Record<string, string> = {
    strength: '1',
    teachers: `{ edit: { stack: { backbone: ${backbone}, adapters: [${edit}] }, view: ${view} } }`,
    rollout: '{ steps: 1 }',
    batch: '1',
    phases: '[{ until: 1 }]',
    data: '{ use: pocket/edits, frames: one, length: 2 }',
    schedule: 'default',
    ...changes,
  };
  writeFileSync(
    at(name),
    `distill:
  student:
    stack: { backbone: ${backbone}, schedule: ${lines.schedule}, adapters: [${edit}, { name: align, use: lora, rank: 2, train: true, strength: ${lines.strength} }] }
    view: ${view}
  teachers: ${lines.teachers}
  rollout: ${lines.rollout}
  phases: ${lines.phases}
  batch: ${lines.batch}
data: ${lines.data}
`,
  );
  return at(name);
}

const distill = (file: string, run = 'run', ...more: readonly string[]): Run =>
  attune('distill', file, '--run', at(run), ...more);

describe('recipes', () => {
  test.each<[string, Readonly<Record<string, string>>, RegExp]>([
    [
      'a trainable adapter at strength 0',
      { strength: '0' },
      /align is to train but its strength is 0/,
    ],
    ['no step at all', { rollout: '{ steps: 0 }' }, /rollout\.steps/],
    ['more steps than times', { rollout: '{ steps: 5000 }' }, /5000.*1000 times/],
    ['no teachers', { teachers: '{}' }, /at least one teacher/],
    [
      'a teacher that names a field of the data',
      { teachers: `{ first_frame: { stack: { backbone: ${backbone} }, view: {} } }` },
      /teachers\.first_frame: names a field/,
    ],
    ['no data', { data: '{ use: pocket/edits, length: 0 }' }, /length/],
    ['an unknown data source', { data: '{ use: pocket/edit }' }, /pocket\/edits/],
    ['micro-batches that do not fit', { batch: '3\n  micro: 2' }, /do not split/],
    [
      'adversarial without a critic',
      { phases: '[{ until: 1, adversarial: true }]' },
      /no teacher has a critic/,
    ],
    [
      'ε-prediction at zero terminal SNR',
      {
        schedule:
          '{ _class_name: DDIMScheduler, beta_start: 0.00085, beta_end: 0.012, beta_schedule: scaled_linear, num_train_timesteps: 1000, rescale_betas_zero_snr: true, prediction_type: epsilon, clip_sample: false }',
      },
      /zero|SNR|epsilon/,
    ],
  ])('%s', (_, changes, message) => {
    refused(distill(recipe('r.yaml', changes)), 2, message);
    expect(existsSync(at('run'))).toBe(false);
  });

  test('a run that exists, and one whose recipe changed since', () => {
    const first = recipe('first.yaml');
    expect(distill(first, 'taken').status).toBe(0);
    refused(distill(first, 'taken'), 2, /--resume/);
    refused(distill(recipe('other.yaml', { batch: '2' }), 'taken', '--resume'), 2, /batch/);
  });

  test('two processes on one run', async () => {
    const long = recipe('long.yaml', { phases: '[{ until: 500 }]' });
    const one = spawn(process.execPath, [bin, 'distill', long, '--run', at('busy')], {
      cwd: at(''),
    });
    try {
      await new Promise((ready) => one.stderr.once('data', ready));
      refused(distill(long, 'busy', '--resume'), 2, /in use by process/);
      expect(one.exitCode).toBeNull();
    } finally {
      one.kill('SIGKILL');
    }
  });

  test('a run in a place that cannot be', () => {
    refused(distill(recipe('r.yaml'), 'picture.png/run'), 2, /picture\.png/);
    expect(readdirSync(at(''))).not.toContain('run');
  });

  test('a disk that fills up while a checkpoint is written: the run ends with a message, and goes on later', () => {
    const file = recipe('full.yaml', { phases: '[{ until: 2 }]' });
    const small = spawnSync(
      'bash',
      ['-c', `ulimit -f 8; exec "${process.execPath}" "${bin}" distill "${file}" --run full`],
      { encoding: 'utf8', timeout: 120_000, cwd: at('') },
    );
    refused(small, 1, /full.*(EFBIG|too large)/s);
    expect(readdirSync(at('full/checkpoints')).filter((name) => name.startsWith('step'))).toEqual(
      [],
    );
    const again = distill(file, 'full', '--resume');
    expect(again.status).toBe(0);
    expect(existsSync(at('full/best/align.safetensors'))).toBe(true);
  });

  test('a hinge critic at one clip a step', () => {
    const critic = `, critic: { width: 8 }, sampling: { steps: 1 } } }`;
    const file = recipe('hinge.yaml', { phases: '[{ until: 2, adversarial: true }]' });
    writeFileSync(
      file,
      readFileSync(file, 'utf8').replace(/ \} \}\n {2}rollout/, `${critic}\n  rollout`),
    );
    const { status, stderr } = distill(file, 'hinge');
    expect(stderr).toMatch(/step 2\/2/);
    expect(status).toBe(0);
  });
});
