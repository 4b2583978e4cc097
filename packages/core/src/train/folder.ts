/** A run's folder: the resolved recipe, a log, checkpoints, and a lock against a second process. */

import {
  appendFileSync,
  existsSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';

import { AttuneError, makeFolder } from '@attune/engine';

export class RunFolder {
  readonly path: string;
  readonly #isNew: boolean;

  private constructor(path: string, isNew: boolean) {
    this.path = path;
    this.#isNew = isNew;
  }

  /**
   * Opens a run folder and locks it. A new run needs a folder that does not exist yet; resuming
   * needs one whose recipe is `recipe`, or the difference is shown.
   */
  static open(path: string, recipe: string, { resume = false } = {}): RunFolder {
    const file = join(path, 'recipe.yaml');
    if (existsSync(file)) {
      if (!resume)
        throw new AttuneError(
          'RUN_EXISTS',
          `The run folder ${path} exists: pass --resume to continue it, or --run to name another.`,
          { path },
        );
      const before = readFileSync(file, 'utf8');
      if (before !== recipe)
        throw new AttuneError(
          'RECIPE_CHANGED',
          `The recipe differs from the one this run was started with (${file}):\n${lineDiff(before, recipe)}\nStart a new run with --run, or put the recipe back.`,
          { path },
        );
    }
    const isNew = !existsSync(path);
    try {
      makeFolder(path);
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      throw new AttuneError('BAD_RUN', `No run can be kept at ${path}: ${reason}.`, { path });
    }
    const folder = new RunFolder(path, isNew);
    folder.#lock();
    if (!existsSync(file)) writeFileSync(file, recipe);
    return folder;
  }

  get checkpoints(): string {
    return join(this.path, 'checkpoints');
  }

  get logFile(): string {
    return join(this.path, 'log.jsonl');
  }

  /** Appends one line to the log. */
  log(entry: Readonly<Record<string, unknown>>): void {
    appendFileSync(this.logFile, `${JSON.stringify(entry)}\n`);
  }

  /** Drops log lines of steps after `step`, which a resumed run will write again. */
  rewindLog(step: number): void {
    if (!existsSync(this.logFile)) return;
    const kept = readFileSync(this.logFile, 'utf8')
      .split('\n')
      .filter((line) => {
        try {
          return (JSON.parse(line) as { step: number }).step <= step;
        } catch {
          return false; // an empty last line, or one cut short by a kill
        }
      });
    writeFileSync(this.logFile, kept.map((line) => `${line}\n`).join(''));
  }

  /** Makes a folder of the run anew, all or nothing: written aside, then put in the old one's place. */
  async replace(name: string, write: (staging: string) => void | Promise<void>): Promise<void> {
    const staging = join(this.path, `.staging-${name}`);
    const target = join(this.path, name);
    rmSync(staging, { recursive: true, force: true });
    await write(staging);
    rmSync(target, { recursive: true, force: true });
    renameSync(staging, target);
  }

  close(): void {
    rmSync(join(this.path, 'lock'), { force: true });
  }

  /** Closes a run that came to nothing; the folder goes if it was made for it. */
  discard(): void {
    this.close();
    if (this.#isNew) rmSync(this.path, { recursive: true, force: true });
  }

  #lock(): void {
    const file = join(this.path, 'lock');
    const mine = JSON.stringify({ pid: process.pid, host: hostname() });
    try {
      writeFileSync(file, mine, { flag: 'wx' });
    } catch {
      const { pid, host } = readLock(file);
      if (pid !== undefined && (host !== hostname() || isAlive(pid)))
        throw new AttuneError(
          'RUN_LOCKED',
          `The run ${this.path} is in use by process ${pid} on ${host}. If that process is gone, delete ${file}.`,
          { pid, host },
        );
      writeFileSync(file, mine);
    }
  }
}

function readLock(file: string): { pid?: number; host?: string } {
  try {
    return JSON.parse(readFileSync(file, 'utf8')) as { pid: number; host: string };
  } catch {
    return {};
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as { code?: string }).code === 'EPERM';
  }
}

/** Lines only in one of two texts, marked - and +. */
function lineDiff(before: string, after: string): string {
  const a = before.split('\n');
  const b = after.split('\n');
  return [
    ...a.filter((line) => !b.includes(line)).map((line) => `- ${line}`),
    ...b.filter((line) => !a.includes(line)).map((line) => `+ ${line}`),
  ].join('\n');
}
