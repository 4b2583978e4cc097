/** The conformance kit: every law of an adapter, checked on a tiny model. */

import {
  type Adapter,
  type AdapterKind,
  checkFile,
  type Dims,
  type Model,
  type Strength,
} from '@attune/core';
import { AttuneError, type Weights } from '@attune/engine';

import { Bench, type Draw } from './bench.ts';
import { fails, holds, type Law, type Subject, type Verdict } from './law.ts';
import { actLaws } from './laws-act.ts';
import { bindLaws } from './laws-bind.ts';
import { frameLaws } from './laws-frames.ts';
import { tinyModel } from './tiny.ts';

/** What one law says about an adapter. */
export interface Finding extends Verdict {
  readonly law: string;
}

/** Makes a fresh adapter; it may take over what a stack entry gives, or leave that to the kit. */
export type MakeAdapter = (given: {
  readonly weights?: Weights;
  readonly strength?: Strength;
  readonly train?: true | readonly string[];
}) => Adapter;

/** What cannot be seen from the adapter itself. */
export interface Declared {
  /** False for an adapter that acts from the start. Default true. */
  readonly startsAsIdentity?: boolean;
  /** The model it acts on. Default: `tinyModel()`. */
  readonly model?: Model;
  /** The net it acts on. Default `unet`. */
  readonly net?: string;
  readonly dims?: Dims;
  /** Values of its ports where standard normals (zeros for integers) do not fit. */
  readonly draw?: Draw;
}

/** Every law, in the order in which they are checked. */
export const laws: readonly Law[] = [...actLaws, ...bindLaws, ...frameLaws];

/** Checks all laws. An error that a law runs into is its finding. */
export async function checkAdapter(
  make: MakeAdapter,
  declared: Declared = {},
): Promise<readonly Finding[]> {
  const subject = subjectOf(make, declared);
  const findings: Finding[] = [];
  for (const law of laws) findings.push({ law: law.name, ...(await judge(law, subject)) });
  return findings;
}

/** Checks a plugin's kind of adapter: that `create` heeds what every stack entry may say, and all laws. */
export async function checkKind(
  kind: AdapterKind,
  options: unknown,
  { model = tinyModel(), ...declared }: Declared = {},
): Promise<readonly Finding[]> {
  const parsed = checkFile(kind.options, options, 'options');
  const create = (given: Parameters<MakeAdapter>[0], name = 'probe'): Adapter =>
    kind.create({ name, model, ...given }, parsed);
  const { name, strength, train } = create({ strength: 0.5, train: ['*'] }, 'named');
  const deaf = [
    ...(name === 'named' ? [] : ['name']),
    ...(strength === 0.5 ? [] : ['strength']),
    ...(Array.isArray(train) && train[0] === '*' ? [] : ['train']),
  ];
  return [
    {
      law: 'heeds name, strength and train of a stack entry',
      ...(deaf.length ? fails(`create() drops ${deaf.join(', ')}`) : holds('all three')),
    },
    ...(await checkAdapter((given) => create(given), { ...declared, model })),
  ];
}

export async function judge(law: Law, subject: Subject): Promise<Verdict> {
  try {
    return await law.check(subject);
  } catch (error) {
    if (AttuneError.is(error)) return fails(`${error.code}: ${error.message}`);
    return fails(error instanceof Error ? (error.stack ?? error.message) : String(error));
  }
}

export function subjectOf(
  make: MakeAdapter,
  { startsAsIdentity = true, model = tinyModel(), net, dims, draw }: Declared,
): Subject {
  return {
    startsAsIdentity,
    bench: new Bench({
      base: model,
      ...(net === undefined ? {} : { net }),
      ...(dims ? { dims } : {}),
      ...(draw ? { draw } : {}),
    }),
    make: (given = {}) => {
      const adapter = make(given);
      return varied(adapter, { strength: 1, ...given });
    },
  };
}

/** The adapter with other properties; its methods keep the adapter as their `this`. */
function varied(adapter: Adapter, changes: Partial<Adapter>): Adapter {
  return Object.create(
    adapter,
    Object.getOwnPropertyDescriptors({
      attach: adapter.attach.bind(adapter),
      ...changes,
    }),
  ) as Adapter;
}
