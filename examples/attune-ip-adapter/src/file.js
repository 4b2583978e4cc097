// @ts-check
/** The layout of an IP-Adapter file: what it holds, and which cross-attention each of its pairs is for. */

import { inventory, nominalDims } from '@attune/core';
import { AttuneError } from '@attune/engine';

import { HEAD } from './projection.js';

/**
 * @import { AdapterFile, Detection, Model } from '@attune/core'
 * @import { Weights } from '@attune/engine'
 * @import { Projection } from './projection.js'
 */

const pair = /^ip_adapter\.(\d+)\.to_([kv])_ip\.weight$/;
const own = /^(unet\..*\.attn2)\.to_([kv])_ip\.weight$/;

/** Families by the width of their text. */
const families = new Map([
  [768, 'sd1'],
  [1024, 'sd2'],
  [2048, 'sdxl'],
]);

/**
 * @param {AdapterFile} file
 * @returns {Detection | undefined}
 */
export function detect({ weights }) {
  const evidence = [...weights.names()].find((name) => pair.test(name));
  if (evidence === undefined) return undefined;
  const base = families.get(weights.entry(evidence).shape[1]);
  return {
    dialect: 'ip-adapter',
    algorithm: `ip-adapter ${variant(weights) ?? 'of an unknown kind'}`,
    evidence,
    ...(base ? { base } : {}),
  };
}

/**
 * Full is told by its second layer, FaceID by the id that it reads.
 * @param {Weights} weights
 */
function variant(weights) {
  const has = (/** @type {string} */ name) => weights.has(`image_proj.${name}`);
  if (has('perceiver_resampler.proj_in.weight') || (has('norm.weight') && has('proj.0.weight')))
    return 'faceid';
  if (has('proj.weight')) return 'base';
  if (has('proj.3.weight')) return 'full';
  return has('latents') ? 'plus' : undefined;
}

/**
 * What the shapes tell. Throws IP_ADAPTER_KIND for a kind that this package does not know.
 * @param {AdapterFile} file
 * @returns {Projection}
 */
export function projectionOf(file) {
  const found = toldBy(file);
  for (const [what, count] of Object.entries(found))
    if (typeof count === 'number' && !(Number.isInteger(count) && count > 0))
      throw new AttuneError(
        'IP_ADAPTER_KIND',
        `${file.path}: the shapes of image_proj make ${count} ${what}, which cannot be; the file is damaged.`,
        { path: file.path },
      );
  return found;
}

/**
 * @param {AdapterFile} file
 * @returns {Projection}
 */
function toldBy({ path, weights }) {
  const shape = (/** @type {string} */ name) => weights.entry(`image_proj.${name}.weight`).shape;
  const kind = variant(weights);
  if (kind === 'base') {
    const [rows, features] = shape('proj');
    return { kind, features, tokens: rows / shape('norm')[0] };
  }
  if (kind === 'full') return { kind, features: shape('proj.0')[1] };
  if (kind === 'plus') {
    const [, tokens, width] = weights.entry('image_proj.latents').shape;
    const layer = /^image_proj\.layers\.(\d+)\./;
    const layers = [...weights.names()].map((name) => Number(layer.exec(name)?.[1] ?? -1));
    return {
      kind,
      features: shape('proj_in')[1],
      tokens,
      width,
      heads: shape('layers.0.0.to_q')[0] / HEAD,
      layers: 1 + Math.max(...layers),
    };
  }
  const what = kind === 'faceid' ? 'a FaceID adapter, which reads a face' : 'no IP-Adapter';
  throw new AttuneError(
    'IP_ADAPTER_KIND',
    `${path} is ${what}; take an IP-Adapter, IP-Adapter Plus or IP-Adapter Full file.`,
    { path },
  );
}

/**
 * The cross-attentions of a model as IP-Adapter counts them: down, up, then middle, each in its order.
 * @param {Model} model
 * @returns {string[]}
 */
export function crossAttentions(model) {
  const blocks = ['down_blocks', 'up_blocks', 'mid_block'];
  const found = [...inventory(model, nominalDims).sites]
    .filter((site) => /^attention:unet\..*\.attn2$/.test(site))
    .map((site) => site.slice('attention:'.length));
  return blocks.flatMap((block) => found.filter((address) => address.startsWith(`unet.${block}.`)));
}

/**
 * Pair n of a file, 1, 3, 5, … (even numbers are self-attentions), under the address it is for.
 * @param {AdapterFile} file
 * @param {readonly string[]} places
 */
export function placed({ path, weights }, places) {
  const pairs = new Set([...weights.names()].flatMap((name) => pair.exec(name)?.[1] ?? []));
  const wanted = places.map((_, i) => String(2 * i + 1));
  if (pairs.size !== wanted.length || wanted.some((n) => !pairs.has(n)))
    throw new AttuneError(
      'IP_ADAPTER_LAYERS',
      `${path} has keys and values for ${pairs.size} cross-attentions; the model has ${places.length} (ip_adapter.1 to ip_adapter.${2 * places.length - 1}). It was made for another family of models.`,
      { path, has: pairs.size, wants: places.length },
    );
  return weights.renamed((name) => {
    const [, n, part] = pair.exec(name) ?? [];
    return n === undefined ? name : `${places[(Number(n) - 1) / 2]}.to_${part}_ip.weight`;
  });
}

/**
 * The file's key of a parameter.
 * @param {readonly string[]} places
 * @returns {(name: string) => string}
 */
export const keyIn = (places) => (name) => {
  const [, address, part] = own.exec(name) ?? [];
  return address === undefined
    ? name
    : `ip_adapter.${2 * places.indexOf(address) + 1}.to_${part}_ip.weight`;
};
