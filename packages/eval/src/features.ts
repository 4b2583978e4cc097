/** Distances and similarities of features that some net has computed. */

import { AttuneError, type F32Array } from '@attune/engine';

import { sameSizes, type Weighting } from './clip.ts';

/**
 * Distance of feature maps where a mask is: at every place the features of each level [F, C, h, w] are
 * scaled to unit length over C, their squared difference is averaged under the mask (its mean over the
 * place's pixels), and levels count equally. As LPIPS without learned weights (Zhang et al. 2018);
 * 0 … 4. NaN where the mask is empty.
 */
export function maskedFeatureDistance(
  a: readonly F32Array[],
  b: readonly F32Array[],
  mask?: Weighting,
): number {
  if (a.length === 0 || a.length !== b.length)
    throw new AttuneError(
      'METRIC_SHAPE',
      `maskedFeatureDistance compares ${a.length} levels with ${b.length}.`,
    );
  const levels = a.map((level, i) => levelDistance(level, b[i], mask));
  return levels.reduce((sum, one) => sum + one, 0) / levels.length;
}

function levelDistance(a: F32Array, b: F32Array, mask?: Weighting): number {
  sameSizes('maskedFeatureDistance', a, b);
  const [F, C, h, w] = a.shape;
  const area = h * w;
  const weights = mask ? pooled(mask, h, w) : undefined;
  let [sum, total] = [0, 0];
  for (let f = 0; f < F; f++)
    for (let i = 0; i < area; i++) {
      const weight = weights ? weights[f * area + i] : 1;
      if (weight === 0) continue;
      const at = f * C * area + i;
      sum += weight * (2 - 2 * cosineOf(a.data, b.data, at, area, C));
      total += weight;
    }
  return total > 0 ? sum / total : Number.NaN;
}

/** Cosine of two vectors of `count` values from `at` on, `stride` apart. Two zero vectors are alike. */
function cosineOf(
  a: Float32Array,
  b: Float32Array,
  at: number,
  stride: number,
  count: number,
  other = at,
): number {
  let [dot, aa, bb] = [0, 0, 0];
  for (let c = 0; c < count; c++) {
    const x = a[at + c * stride];
    const y = b[other + c * stride];
    dot += x * y;
    aa += x * x;
    bb += y * y;
  }
  if (aa === 0 && bb === 0) return 1;
  return dot / Math.sqrt(Math.max(aa * bb, 1e-20));
}

/** The mean of a mask [F, H, W] over the pixels of each place of a coarser grid, [F, h, w]. */
function pooled({ data, shape: [F, H, W] }: Weighting, h: number, w: number): Float32Array {
  if (H % h || W % w)
    throw new AttuneError('METRIC_SHAPE', `A mask of ${H} × ${W} px has no grid of ${h} × ${w}.`);
  const [sy, sx] = [H / h, W / w];
  const out = new Float32Array(F * h * w);
  for (let i = 0; i < data.length; i++) {
    const f = Math.floor(i / (H * W));
    const y = Math.floor((Math.floor(i / W) % H) / sy);
    const x = Math.floor((i % W) / sx);
    out[(f * h + y) * w + x] += data[i] / (sy * sx);
  }
  return out;
}

/**
 * Mean cosine over all ordered pairs i ≠ j of frame features [F, D]: CLIPFrame of loveu-tgve-2023 when
 * the features are CLIP's (run_eval.py). It rewards still video; VideoCoF's CLIP-F takes adjacent
 * frames only (`adjacent`) and is not comparable.
 */
export function pairwiseCosine(
  { data, shape: [F, D] }: F32Array,
  pairs: 'all' | 'adjacent' = 'all',
): number {
  if (F < 2) return Number.NaN;
  let [sum, count] = [0, 0];
  for (let i = 0; i < F; i++)
    for (let j = i + 1; j < (pairs === 'all' ? F : Math.min(F, i + 2)); j++) {
      sum += cosineOf(data, data, i * D, 1, D, j * D);
      count++;
    }
  return sum / count;
}
