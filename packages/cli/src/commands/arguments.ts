/** Arguments that several commands share. */

import { type Device, devices, type RuntimeOptions } from '@attune/engine';
import { type Command, InvalidArgumentError, Option } from 'commander';

import { collectStrength, type GivenStrengths, strengthHelp } from '../strengths.ts';

export const number = (text: string): number => {
  const value = Number(text);
  if (text.trim() === '' || !Number.isFinite(value))
    throw new InvalidArgumentError('give a number');
  return value;
};

/** A whole number from 0. */
export const count = (text: string): number => {
  const value = Number(text);
  if (text.trim() === '' || !Number.isInteger(value) || value < 0)
    throw new InvalidArgumentError('give a whole number');
  return value;
};

/** A whole number from 1. */
export const positive = (text: string): number => {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1)
    throw new InvalidArgumentError('give a whole number of at least 1');
  return value;
};

export interface RuntimeChoice {
  readonly threads?: number;
  readonly device?: Device;
}

/** The options of every command that runs a model; read by `runtimeOf`. */
export const withRuntime = (command: Command): Command =>
  command
    .addOption(new Option('--device <name>', 'where to run').choices(devices))
    .option('--threads <n>', 'threads inside an operation', positive);

/** The runtime that `--threads` and `--device` ask for. */
export const runtimeOf = ({ threads, device }: RuntimeChoice): RuntimeOptions => ({
  ...(threads === undefined ? {} : { threads }),
  ...(device === undefined ? {} : { device }),
});

export interface StrengthChoice {
  readonly strength: GivenStrengths;
}

/** The option of every command that runs a stack; read by `withStrengths`. */
export const withStrength = (command: Command): Command =>
  command.option('--strength <name=value>', strengthHelp, collectStrength, []);

/** What `--sampler` may be, for the help. */
export const samplers = "ddim, euler, dpmpp-2m, lcm or a plugin's";

/** The options of every command that opens a stack; read by `heedLock`. */
export const withLock = (command: Command): Command =>
  command
    .option('--frozen', 'refuse a stack or recipe that is not what its lock file says')
    .option('--verify', 'the same, with every file read and hashed again');

/** Gathers an option that may be repeated. */
export const collect = (text: string, before: readonly string[]): readonly string[] => [
  ...before,
  text,
];

/** `key=value` settings as YAML (`clips=35`, `seeds=[0, 1]`). */
export const settingsOf = (settings: readonly string[]): string =>
  settings.map((setting) => setting.replace('=', ': ')).join('\n') || '{}';
