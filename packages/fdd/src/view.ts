/** Condition views: what of a data point each model reads, and what its unconditional branch leaves out. */

import type { Model, ModelRunner, Rows } from '@attune/core';
import { AttuneError, type F32Array, i64, type NDArray, nearest, zeros } from '@attune/engine';

/** A batch of data by field. Prompts are text, everything else arrays. */
export interface DataBatch {
  /** Prompts by field name (without `text.`), one per clip. */
  readonly text: Readonly<Record<string, readonly string[]>>;
  readonly arrays: Readonly<Record<string, NDArray>>;
}

export type View = Readonly<Record<string, string>>;

type Feeds = Readonly<Record<string, NDArray>>;

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
