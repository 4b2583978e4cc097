/** A training or distillation killed at any moment and resumed ends in the same bytes as one that never stopped. */

import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

import { UNetConfig } from '@attune/core';
import { tinyModel } from '@attune/core/testing';
import { Rng, writeSafetensors } from '@attune/engine';
import { expect, test } from 'vitest';

const bin = 'packages/cli/bin/attune.js';

/** A recipe over a tiny autoencoder, with a checkpoint at almost every step. */
function makeRecipe(): { recipe: string; folder: string } {
  const folder = mkdtempSync(join(tmpdir(), 'kill-'));
  mkdirSync(join(folder, 'model', 'vae'), { recursive: true });
  writeFileSync(
    join(folder, 'model', 'vae', 'config.json'),
    JSON.stringify({
      _class_name: 'AutoencoderTiny',
      encoder_block_out_channels: [4, 4],
      decoder_block_out_channels: [4, 4],
      num_encoder_blocks: [0, 1],
      num_decoder_blocks: [1, 0],
      latent_channels: 4,
    }),
  );
  const recipe = join(folder, 'tiny.yaml');
  writeFileSync(
    recipe,
    `stack: { backbone: ./model, train: ['vae.**'] }
objective: { use: autoencode }
data: { use: pocket/images }
train: { steps: 80, batch: 4, micro: 2, lr: 0.001, schedule: cosine, warmup: 4, ema: 0.9, seed: 3 }
checkpoint: { every: 2, keep: 2 }
log_every: 1
`,
  );
  return { recipe, folder };
}

/** A UNet of one narrow level on the text encoder, autoencoder and schedule of a fixture. */
function makeModel(folder: string): void {
  const fixture = resolve('test/parity/fixtures/unet/pocket');
  mkdirSync(join(folder, 'unet'), { recursive: true });
  for (const part of ['scheduler', 'text_encoder', 'tokenizer', 'vae'])
    symlinkSync(join(fixture, part), join(folder, part));
  cpSync(join(fixture, 'model_index.json'), join(folder, 'model_index.json'));
  const config = {
    _class_name: 'UNet2DConditionModel',
    block_out_channels: [8],
    down_block_types: ['CrossAttnDownBlock2D'],
    up_block_types: ['CrossAttnUpBlock2D'],
    layers_per_block: 1,
    attention_head_dim: 2,
    cross_attention_dim: 24,
    norm_num_groups: 4,
  };
  writeFileSync(join(folder, 'unet', 'config.json'), JSON.stringify(config));
  const { weights } = tinyModel({ config: UNetConfig.parse(config) });
  const tensors = [...weights.names()].map((name) => [
    name.slice('unet.'.length),
    weights.entry(name).load(),
  ]);
  writeSafetensors(
    join(folder, 'unet', 'diffusion_pytorch_model.safetensors'),
    Object.fromEntries(tensors),
  );
}

/** A distillation of a fresh LoRA on it through both phases, with a fake score and a critic. */
function makeDistillation(): { recipe: string; folder: string } {
  const folder = mkdtempSync(join(tmpdir(), 'kill-'));
  makeModel(join(folder, 'model'));
  const recipe = join(folder, 'align.yaml');
  const view = '{ encoder_hidden_states: text.caption }';
  writeFileSync(
    recipe,
    `distill:
  student:
    stack: { backbone: ./model, adapters: [{ name: align, use: lora, rank: 2, train: true }] }
    view: ${view}
  teachers:
    plain:
      stack: { backbone: ./model }
      view: ${view}
      fake: { adapters: [{ name: own, use: lora, rank: 2, train: true }], share: 0.5 }
      critic: { width: 8 }
      sampling: { steps: 2 }
  rollout: { steps: 2 }
  phases: [{ until: 16 }, { until: 32, adversarial: true }]
  batch: 2
  lr: 0.001
  ema: 0.9
data: { use: pocket/edits, frames: one, length: 3 }
checkpoint: { every: 1, keep: 2 }
`,
  );
  return { recipe, folder };
}

const args = (
  command: string,
  recipe: string,
  run: string,
  { threads = 1, more = [] as readonly string[] } = {},
): string[] => [bin, command, recipe, '--run', run, '--threads', String(threads), ...more];

/** The step that a run would do next, and whether a checkpoint of it lies there half-written. */
function standOf(run: string): { next: number; torn: boolean } {
  const folder = join(run, 'checkpoints');
  const names = existsSync(folder) ? readdirSync(folder) : [];
  const steps = names.flatMap((name) => /^step-(\d+)$/.exec(name)?.[1] ?? []).map(Number);
  return {
    next: 1 + Math.max(0, ...steps),
    torn: names.some((name) => name.startsWith('.staging')),
  };
}

/**
 * When a process is killed: some time after its start, after its next checkpoint, or while that is being
 * written; not before it has come to the step `from`.
 */
interface Moment {
  readonly on: 'start' | 'checkpoint' | 'write';
  readonly delay: number;
  readonly from: number;
}

/** Runs to the end, which is told, or until the kill. */
function runAndKill(command: readonly string[], run: string, moment?: Moment): Promise<boolean> {
  const before = standOf(run);
  return new Promise((done, fail) => {
    const child = spawn(process.execPath, command, { stdio: 'ignore' });
    const kill = (): void => void child.kill('SIGKILL');
    const watch = setInterval(() => {
      if (!moment) return;
      const { next, torn } = standOf(run);
      if (next < moment.from) return;
      const checkpoint = next > before.next;
      // What a process finds half-written is not its own doing.
      const due = { start: true, checkpoint, write: torn && (checkpoint || !before.torn) };
      if (!due[moment.on]) return;
      clearInterval(watch);
      if (moment.on === 'write') kill();
      else setTimeout(kill, moment.delay);
    }, 1);
    child.on('exit', (code, signal) => {
      clearInterval(watch);
      if (code === 0 || signal === 'SIGKILL') done(code === 0);
      else fail(new Error(`exit ${code}, ${signal}`));
    });
  });
}

const files = (folder: string): Map<string, Buffer> =>
  new Map(
    readdirSync(folder, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => join(entry.parentPath, entry.name))
      .toSorted()
      .map((path) => [path.slice(folder.length), readFileSync(path)]),
  );

test.each([
  ['train', makeRecipe, { ends: [80], start: 700, step: 50 }],
  ['distill', makeDistillation, { ends: [16, 32], start: 1500, step: 200 }],
] as const)(
  '%s: ten kills and resumes in each phase, byte for byte',
  async (command, make, { ends, start, step }) => {
    const { recipe, folder } = make();
    const whole = join(folder, 'whole');
    const broken = join(folder, 'broken');
    // Two threads run micro-batches beside each other: the bytes must not know.
    const undisturbed = args(command, recipe, whole, { threads: 2 });
    expect(spawnSync(process.execPath, undisturbed).status).toBe(0);
    const rng = Rng.of(11);
    const kills = ends.map(() => 0);
    const torn = new Set<number>();
    let done = false;
    for (let tries = 0; !done && tries < 100; tries++) {
      const resume = existsSync(join(broken, 'recipe.yaml')) ? ['--resume'] : [];
      const phase = kills.findIndex((count) => count < 10);
      const on = rng.pick(['start', 'checkpoint', 'write'] as const);
      const delay = rng.uniform() * (on === 'start' ? start : step);
      const moment = { on, delay, from: phase > 0 ? ends[phase - 1] + 1 : 1 };
      const again = args(command, recipe, broken, { more: resume });
      done = await runAndKill(again, broken, phase < 0 ? undefined : moment);
      if (done) break;
      const stand = standOf(broken);
      const struck = ends.findIndex((end) => stand.next <= end);
      if (struck >= 0) kills[struck]++; // else the result was being written
      if (stand.torn) torn.add(stand.next);
    }
    expect(done).toBe(true);
    if (process.env.TOLD) console.log(kills, torn);
    for (const count of kills) expect(count).toBeGreaterThanOrEqual(10);
    expect(torn.size).toBeGreaterThanOrEqual(3);
    for (const part of ['best', 'checkpoints'])
      expect(same(files(join(broken, part)), files(join(whole, part)))).toBe(true);
    const log = readFileSync(join(broken, 'log.jsonl'), 'utf8');
    expect(log).toBe(readFileSync(join(whole, 'log.jsonl'), 'utf8'));
    // Figures, never arrays.
    expect(Math.max(...log.split('\n').map(({ length }) => length))).toBeLessThan(1000);
  },
  400_000,
);

const same = (a: ReadonlyMap<string, Buffer>, b: ReadonlyMap<string, Buffer>): boolean =>
  a.size === b.size && [...a].every(([name, bytes]) => b.get(name)?.equals(bytes) ?? false);

test('Ctrl-C once stops after the step, twice at once, without a word of the runtime', async () => {
  const { recipe, folder } = makeDistillation();
  const interrupted = async (times: number) => {
    const child = spawn(
      process.execPath,
      args('distill', recipe, join(folder, `after-${times}`), { threads: 2 }),
      { stdio: ['ignore', 'ignore', 'pipe'] },
    );
    let said = '';
    let sent = 0;
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      said += text;
      const due = said.includes('press Ctrl-C again') ? 2 : Number(said.includes('step 1/'));
      while (sent < Math.min(due, times)) {
        sent++;
        child.kill('SIGINT');
      }
    });
    const [code, signal] = await once(child, 'exit');
    return { code, signal, said };
  };
  const [first, second] = await Promise.all([interrupted(1), interrupted(2)]);
  expect(first).toMatchObject({ code: 1, signal: null });
  expect(first.said).toMatch(/stopped at step \d+; continue with --resume\n$/);
  expect(second).toMatchObject({ code: null, signal: 'SIGINT' });
  expect(second.said).toMatch(/press Ctrl-C again to quit at once\n$/);
});

test('a changed recipe, a run that exists and a locked run are refused', () => {
  const { recipe, folder } = makeRecipe();
  const run = join(folder, 'run');
  mkdirSync(run);
  cpSync(recipe, join(run, 'recipe.yaml'));
  const again = spawnSync(process.execPath, args('train', recipe, run), { encoding: 'utf8' });
  expect(again.status).toBe(2);
  expect(again.stderr).toMatch(/exists: pass --resume/);
  const changed = spawnSync(process.execPath, args('train', recipe, run, { more: ['--resume'] }), {
    encoding: 'utf8',
  });
  expect(changed.status).toBe(2);
  expect(changed.stderr).toMatch(/The recipe differs/);
  const fresh = join(folder, 'locked');
  mkdirSync(fresh);
  writeFileSync(join(fresh, 'lock'), JSON.stringify({ pid: process.pid, host: hostOf() }));
  const locked = spawnSync(process.execPath, args('train', recipe, fresh), { encoding: 'utf8' });
  expect(locked.status).toBe(2);
  expect(locked.stderr).toMatch(/in use by process/);
});

const hostOf = (): string => spawnSync('hostname', { encoding: 'utf8' }).stdout.trim();
