/** CLIPTextModel as a function of a scope, with transformers' names under `text_model.`. */

import {
  add,
  argmax,
  AttuneError,
  cast,
  constant,
  equal,
  gather,
  gelu,
  i64,
  minimum,
  quickGelu,
  reshape,
  slice,
  type Tensor,
  values,
} from '@attune/engine';

import { attend } from '../nn/attention.ts';
import { normal } from '../nn/init.ts';
import { embedding, layerNorm, linear } from '../nn/layers.ts';
import type { Scope } from '../nn/scope.ts';
import type { ClipTextConfig } from './config.ts';
import type { Net } from './net.ts';

/** `input_ids` i64 [B, L] → `last_hidden_state` [B, L, D] and `pooler_output` [B, D], the state at the end token. */
export function clipText(config: ClipTextConfig): Net {
  return {
    name: 'text_encoder',
    signature: ({ B, L }) => ({ input_ids: { shape: [B, L], dtype: 'i64', rate: 'clip' } }),
    trace: (root, { inputs: { input_ids: ids } }) => {
      const scope = root.at('text_encoder', 'text_model');
      let x = embed(scope.at('embeddings'), ids, config);
      const mask = causalMask(ids.dim(1));
      for (let i = 0; i < config.num_hidden_layers; i++) {
        scope.mark();
        x = layer(scope.at('encoder', 'layers', i), x, mask, config);
      }
      const hidden = layerNorm(scope.at('final_layer_norm'), x, config.layer_norm_eps);
      return { last_hidden_state: hidden, pooler_output: atEnd(hidden, ids, config.eos_token_id) };
    },
  };
}

/** Token and position rows. Ids past the vocabulary (added tokens) look up the last row. */
function embed(
  scope: Scope,
  ids: Tensor,
  { vocab_size: size, hidden_size: width, max_position_embeddings: length }: ClipTextConfig,
): Tensor {
  const asked = ids.dim(1);
  if (asked > length)
    throw new AttuneError(
      'TOO_MANY_TOKENS',
      `${scope.path}: ${asked} tokens, but its position table has ${length}; use texts of at most ${length} tokens.`,
      { tokens: asked, length },
    );
  const last = constant(i64([size - 1], []));
  const tokens = embedding(scope.at('token_embedding'), ids, size, width, (table) =>
    gather(table, minimum(ids, last)),
  );
  const place = scope.at('position_embedding');
  const table = place.param('weight', [length, width], normal(0.01));
  return add(tokens, slice(table, 0, 0, asked));
}

function layer(scope: Scope, x: Tensor, mask: Tensor, config: ClipTextConfig): Tensor {
  const { hidden_size: width, layer_norm_eps: eps } = config;
  const own = scope.at('self_attn');
  const seen = layerNorm(scope.at('layer_norm1'), x, eps);
  const [q, k, v] = ['q_proj', 'k_proj', 'v_proj'].map((name) => linear(own.at(name), seen, width));
  const heads = config.num_attention_heads;
  const value = own.site('attention', attend(q, k, v, heads, mask), { q, k, v, heads });
  const after = add(x, linear(own.at('out_proj'), value, width));
  const mlp = scope.at('mlp');
  const act = config.hidden_act === 'gelu' ? gelu : quickGelu;
  const inner = linear(
    mlp.at('fc1'),
    layerNorm(scope.at('layer_norm2'), after, eps),
    config.intermediate_size,
  );
  return add(after, linear(mlp.at('fc2'), act(inner), width));
}

/** [L, L]: 0 up to the diagonal, a number no score outweighs above it. */
function causalMask(length: number): Tensor {
  const mask = new Float32Array(length * length);
  for (let i = 0; i < length; i++) mask.fill(-1e30, i * length + i + 1, (i + 1) * length);
  return values(mask, [length, length]);
}

/** Rows of x [B, L, D] at the first end token; with the legacy id 2, at the largest id. */
function atEnd(x: Tensor, ids: Tensor, eos: number): Tensor {
  const [rows, length, width] = x.shape;
  const end = constant(i64([eos], []));
  const score = eos === 2 ? cast(ids, 'i32') : cast(equal(ids, end), 'i32');
  const starts = constant(
    i64(
      Array.from({ length: rows }, (_, b) => b * length),
      [rows],
    ),
  );
  return gather(reshape(x, [rows * length, width]), add(argmax(score, 1), starts));
}
