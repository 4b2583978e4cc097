/** Condition views: what of a data point each model reads, and what its unconditional branch leaves out. */

import {
  entryName,
  type Model,
  type ModelRunner,
  nominalDims,
  type Rows,
  type StackFile,
} from '@attune/core';
import { AttuneError, type F32Array, i64, type NDArray, nearest, zeros } from '@attune/engine';

/** A batch of data by field. Prompts are text, everything else arrays. */
export interface DataBatch {
  /** Prompts by field name (without `text.`), one per clip. */
  readonly text: Readonly<Record<string, readonly string[]>>;
  readonly arrays: Readonly<Record<string, NDArray>>;
}

export type View = Readonly<Record<string, string>>;

type Feeds = Readonly<Record<string, NDArray>>;

/** What the loop feeds by itself. */
const own = ['sample', 'timestep'];

/**
 * Throws UNKNOWN_INPUT for a key of a view that nothing of the model takes, and MISSING_INPUT where it must be
 * fed something of which the view does not speak. `at` is the view's place in the recipe. Adapters of `stack`
 * that the model has not, since their strength is 0, may be spoken of.
 */
export function checkView(
  model: Model,
  view: View,
  { at, stack }: { readonly at: string; readonly stack: StackFile },
): void {
  const inputs = Object.keys(model.nets.unet?.signature(nominalDims) ?? {});
  const taken = new Map<string, boolean>();
  for (const name of inputs) if (!own.includes(name)) taken.set(name, true);
  for (const { name, ports = {} } of model.adapters)
    for (const [port, { defaultTo }] of Object.entries(ports))
      taken.set(`${name}.${port}`, defaultTo === undefined);
  const there = new Set(model.adapters.map(({ name }) => name));
  const gone = stack.adapters.map(entryName).filter((name) => !there.has(name));
  for (const key of Object.keys(view)) {
    if (taken.has(key) || gone.some((name) => key.startsWith(`${name}.`))) continue;
    throw new AttuneError(
      'UNKNOWN_INPUT',
      `${at}: nothing of the stack takes ${key}; nearest: ${nearest(key, [...taken.keys()], 1).join() || 'none'}; taken: ${[...taken.keys()].join(', ') || 'nothing'}.`,
      { key },
    );
  }
  for (const [key, needed] of taken)
    if (needed && !(key in view))
      throw new AttuneError(
        'MISSING_INPUT',
        `${at}: ${key} has to be fed; say of which field of the data, as "${key}: <field>".`,
        { key },
      );
}

/** Throws UNKNOWN_INPUT for what is to be left out and the view does not have; text may be left out of what reads none. */
export function checkDrops(view: View, drop: readonly string[], at: string): void {
  const keys = Object.keys(view);
  for (const key of drop)
    if (key !== 'encoder_hidden_states' && !keys.includes(key))
      throw new AttuneError(
        'UNKNOWN_INPUT',
        `${at}: ${key} is to be left out, but the view does not feed it; nearest: ${nearest(key, keys, 1).join() || 'none'}.`,
        { key },
      );
}

/** The feeds a view makes of a batch; inputs in `drop` are empty prompts or zeros. */
export async function look(
  runner: ModelRunner,
  view: View,
  batch: DataBatch,
  drop: readonly string[] = [],
): Promise<Feeds> {
  const feeds: Record<string, NDArray> = {};
  for (const [name, field] of Object.entries(view)) {
    const gone = drop.includes(name);
    if (field.startsWith('text.')) {
      const prompts = fieldOf(batch.text, field.slice(5), name);
      feeds[name] = await encoded(runner, gone ? prompts.map(() => '') : prompts);
    } else {
      const array = fieldOf(batch.arrays, field, name);
      feeds[name] = gone ? zeros(array.shape, array.dtype) : array;
    }
  }
  return feeds;
}

/** The part of a view that reads prompts. */
export const promptsOf = (view: View): View =>
  Object.fromEntries(Object.entries(view).filter(([, field]) => field.startsWith('text.')));

/** The tokens of a view's prompts by field, i64 [B, L]. */
export function promptIds(model: Model, view: View, { text }: DataBatch): Feeds {
  const { tokenizer } = model;
  return Object.fromEntries(
    Object.entries(view).map(([name, field]) => {
      if (!tokenizer) throw new AttuneError('NO_TEXT_ENCODER', 'The model has no tokenizer.');
      const prompts = fieldOf(text, field.slice(5), name);
      const ids = prompts.flatMap((prompt) => tokenizer.encode(prompt).ids);
      return [field, i64(ids, [prompts.length, tokenizer.maxLength])];
    }),
  );
}

/** Of an array with a row for every frame, each clip's first [B, …]; others as they are. */
export function firstRows<T extends NDArray>(array: T, { B, F }: Rows): T {
  if (array.shape[0] !== B * F || F === 1) return array;
  const size = array.data.length / (B * F);
  const data = array.data.slice(0, B * size);
  for (let b = 0; b < B; b++) {
    const first = array.data.subarray(b * F * size, (b * F + 1) * size);
    (data as { set(from: typeof first, at: number): void }).set(first, b * size);
  }
  return { ...array, shape: [B, ...array.shape.slice(1)], data };
}

async function encoded(runner: ModelRunner, prompts: readonly string[]): Promise<F32Array> {
  const { states } = await runner.encodeText(prompts);
  return states;
}

/** A field of the data; an error that names it, who asks and the nearest where there is none. */
export function fieldOf<T>(fields: Readonly<Record<string, T>>, field: string, input: string): T {
  const value = fields[field];
  if (value !== undefined) return value;
  throw new AttuneError(
    'NO_FIELD',
    `The view of ${input} asks the data for "${field}", which it does not have; it has ${Object.keys(fields).join(', ') || 'nothing'}; nearest: ${nearest(field, Object.keys(fields), 1).join() || 'none'}.`,
    { field, input },
  );
}
