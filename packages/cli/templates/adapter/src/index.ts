/** __id__: a learned gain for every channel. Replace the tap and the options by your own. */

import {
  type Adapter,
  adapterKind,
  definePlugin,
  type Detection,
  type Strength,
  type Tap,
  zeros,
} from '@attune/core';
import { mul, reshape, type Weights } from '@attune/engine';
import { z } from 'zod';

export const id = '__id__';

/** What a stack entry may say beside `use`, `name`, `from`, `strength` and `train`. */
export const Options = z.strictObject({
  /** Factor of the gain. */
  scale: z.number().positive().default(1),
});
export type Options = z.infer<typeof Options>;

/** After every block of the UNet: value + strength · (scale · gain · value). Zero at first. */
const tap = (scale: number): Tap => ({
  at: 'hidden:unet.**',
  delta: (value, { scope }) => {
    const channels = value.dim(1);
    const gain = scope.param('gain', [channels], zeros);
    return mul(mul(value, scale), reshape(gain, [1, channels, 1, 1]));
  },
});

interface Given extends Partial<Options> {
  readonly name: string;
  readonly weights?: Weights;
  readonly strength?: Strength;
  readonly train?: true | readonly string[];
}

/** The adapter by itself, for programs that compose without a stack file. */
export const adapter = ({ scale = 1, ...given }: Given): Adapter => ({
  ...given,
  attach: () => [tap(scale)],
});

/** A file is ours when a tensor of it is a gain. */
function detect({ weights }: { readonly weights: Weights }): Detection | undefined {
  const evidence = [...weights.names()].find((name) => name.endsWith('.gain'));
  return evidence === undefined ? undefined : { dialect: 'attune', algorithm: id, evidence };
}

export const kind = adapterKind({
  options: Options,
  detect,
  create: ({ file, model: _, ...given }, options) =>
    adapter({ ...given, ...options, ...(file ? { weights: file.weights } : {}) }),
});

export default definePlugin({ api: 1, contributes: { adapters: { [id]: kind } } });
