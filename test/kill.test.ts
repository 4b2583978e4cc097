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
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

import { Rng } from '@attune/engine';
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

/** A distillation of an editor with a fresh LoRA on tiny random models, through both phases. */
function makeDistillation(): { recipe: string; folder: string } {
  const folder = mkdtempSync(join(tmpdir(), 'kill-'));
  const fixtures = resolve('test/parity/fixtures');
  const editor = `{ use: edit, from: ${fixtures}/compose/pocket/edit }`;
  const backbone = `${fixtures}/unet/pocket`;
  const view = `{ encoder_hidden_states: text.caption, edit.encoder_hidden_states: text.instruction, edit.image: source }`;
  const recipe = join(folder, 'align.yaml');
  writeFileSync(
    recipe,
    `distill:
  student:
    stack: { backbone: ${backbone}, adapters: [${editor}, { name: align, use: lora, rank: 2, train: true }] }
    view: ${view}
  teachers:
    edit:
      stack: { backbone: ${backbone}, adapters: [${editor}] }
      view: ${view}
      critic: { width: 8 }
      sampling: { steps: 2 }
  rollout: { steps: 2 }
  phases: [{ until: 12 }, { until: 24, adversarial: true }]
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

/** Runs until done, or until killed `delay` ms after its log has grown by `lines`. */
function runAndKill(
  command: readonly string[],
  log: string,
  lines: number,
  delay: number,
): Promise<boolean> {
  const length = () => (existsSync(log) ? readFileSync(log, 'utf8').split('\n').length - 1 : 0);
  return new Promise((done) => {
    const child = spawn(process.execPath, command, { stdio: 'ignore' });
    const before = length();
    const watch = setInterval(() => {
      if (length() < before + lines) return;
      clearInterval(watch);
      setTimeout(() => child.kill('SIGKILL'), delay);
    }, 2);
    child.on('exit', (code) => {
      clearInterval(watch);
      done(code === 0);
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
  ['train', makeRecipe],
  ['distill', makeDistillation],
] as const)(
  '%s: ten kills and resumes, byte for byte',
  async (command, make) => {
    const { recipe, folder } = make();
    const whole = join(folder, 'whole');
    const broken = join(folder, 'broken');
    // Two threads run micro-batches beside each other: the bytes must not know.
    const undisturbed = args(command, recipe, whole, { threads: 2 });
    expect(spawnSync(process.execPath, undisturbed).status).toBe(0);
    const rng = Rng.of(11);
    let kills = 0;
    let done = false;
    for (let tries = 0; !done && tries < 60; tries++) {
      const resume = existsSync(join(broken, 'recipe.yaml')) ? ['--resume'] : [];
      // A resumed run drops log lines past its checkpoint, so growth is counted from what is left.
      const lines = kills < 10 ? 1 + rng.int(2) : 1000;
      const log = join(broken, 'log.jsonl');
      done = await runAndKill(
        args(command, recipe, broken, { more: resume }),
        log,
        lines,
        30 * rng.uniform(),
      );
      if (!done) kills++;
    }
    expect(done).toBe(true);
    expect(kills).toBeGreaterThanOrEqual(10);
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
