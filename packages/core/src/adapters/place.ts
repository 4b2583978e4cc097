/** How the frames and the pixels of a clip lie in a value, so that a strength can differ between them. */

import { expand, reshape, type Tensor, transpose } from '@attune/engine';

import type { Rows } from '../nn/rows.ts';
import type { Site } from '../nn/scope.ts';

/** Where the pixels of a value are. */
export interface Pixels {
  readonly h: number;
  readonly w: number;
  /** `image`: [rows, C, h, w]. `tokens`: [rows, h·w, C]. `tubes`: [B·h·w, F, C], the frames of each pixel. */
  readonly layout: 'image' | 'tokens' | 'tubes';
}

/** Undefined where the value has no pixels. */
export function pixelsOf(value: Tensor, site: Site): Pixels | undefined {
  const { rank } = value;
  const {
    grid,
    call: { B, F },
  } = site;
  if (grid?.layout === 'tubes') {
    const { h, w } = grid;
    const fits = rank === 3 && value.dim(0) === B * h * w && value.dim(1) === F;
    return fits ? { h, w, layout: 'tubes' } : undefined;
  }
  if (!hasRows(value, site)) return undefined;
  if (rank === 4) return { h: value.dim(2), w: value.dim(3), layout: 'image' };
  if (grid && rank === 3 && value.dim(1) === grid.h * grid.w)
    return { h: grid.h, w: grid.w, layout: 'tokens' };
  return undefined;
}

/** Whether the leading axis is that of clips and frames. */
const hasRows = (value: Tensor, { call: { B, F } }: Site): boolean =>
  value.rank > 1 && [1, B, B * F].includes(value.dim(0));

/** [F] as factors of the value's frames; undefined where its rows are none. */
export function acrossFrames(value: Tensor, site: Site, frames: () => Tensor): Tensor | undefined {
  const { call } = site;
  const { F } = call;
  if (site.grid?.layout === 'tubes')
    return pixelsOf(value, site) ? reshape(frames(), [1, F, 1]) : undefined;
  if (!hasRows(value, site)) return undefined;
  const ones = Array.from({ length: value.rank - 1 }, () => 1);
  return overClips(reshape(frames(), [F, ...ones]), call);
}

/** A mask [1 or F, h, w] as factors of the value's pixels. */
export function acrossPixels(
  mask: Tensor,
  value: Tensor,
  { call }: Site,
  { h, w, layout }: Pixels,
): Tensor {
  const rows = mask.dim(0);
  switch (layout) {
    case 'image':
      return overClips(reshape(mask, [rows, 1, h, w]), call);
    case 'tokens':
      return overClips(reshape(mask, [rows, h * w, 1]), call);
    default: {
      const each = transpose(reshape(mask, [rows, h * w, 1]), [1, 0, 2]);
      if (call.B === 1) return each;
      const all = expand(reshape(each, [1, h * w, rows, 1]), [call.B, h * w, rows, 1]);
      return reshape(all, [call.B * h * w, rows, 1]);
    }
  }
}

/** [1 or F, …] with a row for every frame of every clip; one row stays one. */
function overClips(x: Tensor, { B, F }: Rows): Tensor {
  const [rows, ...rest] = x.shape;
  if (rows === 1 || B === 1) return x;
  return reshape(expand(reshape(x, [1, F, ...rest]), [B, F, ...rest]), [B * F, ...rest]);
}
