/** What an adapter's file or its stack entry says of its training and its terms, whatever its kind. */

import { existsSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';

import { AttuneError, parseJson, readText } from '@attune/engine';
import { parse } from 'yaml';
import { z } from 'zod';

import type { Adapter } from '../adapters/adapter.ts';
import type { AdapterFile } from '../plugins/plugin.ts';
import { ScheduleConfig } from '../schedule/noise.ts';
import { checkFile, type StackEntry } from './schema.ts';

/** The header key under which a trained adapter is saved with its noise and prediction type (JSON). */
export const TRAINED_WITH = 'attune.trained_with';

/** What is known of an adapter's training and terms. */
export interface Declared {
  readonly trainedWith?: Readonly<Partial<ScheduleConfig>>;
  /** True where neither entry nor file says so: what is usual for files like this one. */
  readonly assumed?: boolean;
  readonly license?: string;
}

/** A scheduler config of which any key may be missing. */
const Partly = z
  .looseObject(
    Object.fromEntries(
      Object.entries(ScheduleConfig.shape).map(([key, field]) => [
        key,
        'removeDefault' in field ? field.removeDefault().optional() : field,
      ]),
    ),
  )
  .transform((config) => config as Partial<ScheduleConfig>);

/** ModelSpec's words for prediction types. */
const spoken: Readonly<Record<string, ScheduleConfig['prediction_type']>> = {
  epsilon: 'epsilon',
  v: 'v_prediction',
  v_prediction: 'v_prediction',
};

/**
 * The stack entry goes first, then the file's header (our own key, then ModelSpec's), then what the kind says
 * of files like this one. Throws BAD_CONFIG for a declaration that is no scheduler config.
 */
export function declaredOf(
  entry: Pick<StackEntry, 'name' | 'use' | 'trained_with' | 'license'>,
  adapter: Adapter,
  file?: AdapterFile,
): Declared {
  const header = file?.metadata ?? {};
  const own = header[TRAINED_WITH];
  const said = spoken[header['modelspec.prediction_type'] ?? ''];
  const where = `${file?.path ?? adapter.name}: trained_with`;
  const trainedWith = entry.trained_with
    ? checkFile(Partly, entry.trained_with, `adapter ${adapter.name}: trained_with`)
    : own === undefined
      ? said || adapter.trainedWith
        ? { ...adapter.trainedWith, ...(said ? { prediction_type: said } : {}) }
        : undefined
      : checkFile(Partly, parsed(own, where), where);
  const assumed = !entry.trained_with && own === undefined && !said;
  const license =
    entry.license ??
    adapter.license ??
    header['modelspec.license'] ??
    header.license ??
    (file && cardLicense(file.path));
  return {
    ...(trainedWith ? { trainedWith, assumed } : {}),
    ...(license === undefined ? {} : { license }),
  };
}

function parsed(text: string, where: string): unknown {
  const fail = (what: string) =>
    new AttuneError('BAD_JSON', `${where} in its header ${what}.`, { where });
  return parseJson(text, fail);
}

/** Letters of a card that are looked at. */
const FRONT = 2 ** 16;

/** The `license` of a model card: the front matter of the README.md in a folder or beside a file, as hubs have it. */
export function cardLicense(path: string): string | undefined {
  const folder = statSync(path, { throwIfNoEntry: false })?.isDirectory() ? path : dirname(path);
  const card = join(folder, 'README.md');
  if (!existsSync(card)) return undefined;
  try {
    const [, front] = /^---\r?\n([\s\S]*?)\r?\n---/.exec(readText(card).slice(0, FRONT)) ?? [];
    if (front === undefined) return undefined;
    const { license } = Object(parse(front)) as { license?: unknown };
    return typeof license === 'string' ? license : undefined;
  } catch {
    return undefined;
  }
}
