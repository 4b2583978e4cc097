/** Textual inversion (Gal et al. 2022, arXiv 2208.01618): a word of one's own, as rows of the embedding table. */

import { type Adapter, normal, type Site, type Strength } from '@attune/core';
import {
  add,
  cast,
  constant,
  gather,
  i64,
  less,
  maximum,
  minimum,
  mul,
  reshape,
  sub,
  type Tensor,
  type Weights,
} from '@attune/engine';

/** A word and its vectors. */
export interface InversionOptions {
  readonly name?: string;
  /** The word that prompts write. */
  readonly word: string;
  /** How many vectors the word stands for, one after the other. Default 1. */
  readonly vectors?: number;
  readonly weights?: Weights;
  /** The key in the file that `weights` came from. */
  readonly fileKey?: (name: string) => string;
  readonly strength?: Strength;
  readonly train?: true | readonly string[];
}

/** The layer of the text encoder that knows a vector for every word. */
export const TABLE = 'text_encoder.text_model.embeddings.token_embedding';
const LEAF = 'emb_params';
/** The name of its one parameter. */
export const PARAMETER = `${TABLE}.${LEAF}`;

/** Vectors [vectors, D] in the places of the word's ids. Prompts without the word stay as they are. */
export function textualInversion({
  name = 'inversion',
  word,
  vectors = 1,
  weights,
  fileKey = () => LEAF,
  strength,
  train,
}: InversionOptions): Adapter {
  return {
    name,
    live: true,
    commutes: true,
    words: { [word]: vectors },
    fileKey,
    ...(weights ? { weights } : {}),
    ...(strength === undefined ? {} : { strength }),
    ...(train ? { train } : {}),
    attach: () => [
      { at: TABLE, delta: (_, site) => replaced(site, site.call.idOf(word), vectors) },
    ],
  };
}

const at = (id: number): Tensor => constant(i64([id], []));

/** own − the table's where the ids are the word's, 0 elsewhere. */
function replaced({ layer, scope }: Site, first: number, vectors: number): Tensor {
  const { x: ids, weight, output } = layer!;
  const width = weight.dim(1);
  const rows = scope.param(LEAF, [vectors, width], normal(0.02));
  const place = add(ids, at(-first));
  const inside = mul(cast(less(at(-1), place), 'f32'), cast(less(place, at(vectors)), 'f32'));
  const own = gather(rows, minimum(maximum(place, at(0)), at(vectors - 1)));
  return mul(sub(own, output), reshape(inside, [...inside.shape, 1]));
}
