/** CLIP's text encoder as OpenCLIP names it (Stable Diffusion 2), under transformers' names. */

import { rows, type WeightEntry, Weights } from '@attune/engine';

const single: Readonly<Record<string, string>> = {
  'token_embedding.weight': 'embeddings.token_embedding.weight',
  positional_embedding: 'embeddings.position_embedding.weight',
  'ln_final.weight': 'final_layer_norm.weight',
  'ln_final.bias': 'final_layer_norm.bias',
};

const parts: Readonly<Record<string, string>> = {
  ln_1: 'layer_norm1',
  ln_2: 'layer_norm2',
  'attn.out_proj': 'self_attn.out_proj',
  'mlp.c_fc': 'mlp.fc1',
  'mlp.c_proj': 'mlp.fc2',
};

/** What the encoder has for other purposes: the image–text scores. */
const unused = /^(logit_scale|text_projection|attn_mask)$/;

export const isOpenClip = (weights: Weights): boolean =>
  weights.has('transformer.resblocks.0.attn.in_proj_weight');

/** Stable Diffusion 2 reads the state before the 24th layer, which diffusers leaves out, too. */
const UNREAD = '23';

/** The same weights under transformers' names. Names that are not OpenCLIP's stay as they are. */
export function fromOpenClip(weights: Weights): Weights {
  const layer = /^transformer\.resblocks\.(\d+)\.(.+)\.?(weight|bias)$/;
  const entries: (readonly [string, WeightEntry])[] = [];
  for (const name of weights.names()) {
    if (unused.test(name)) continue;
    const entry = weights.entry(name);
    const [, index, part, leaf] = layer.exec(name) ?? [];
    if (index === undefined) entries.push([`text_model.${single[name] ?? name}`, entry]);
    else if (index === UNREAD) continue;
    else {
      const place = `text_model.encoder.layers.${index}`;
      const plain = part.replace(/\.$/, '');
      if (plain === 'attn.in_proj_')
        entries.push(
          ...thirds(entry).map(
            ([to, third]) => [`${place}.self_attn.${to}.${leaf}`, third] as const,
          ),
        );
      else entries.push([`${place}.${parts[plain] ?? plain}.${leaf}`, entry]);
    }
  }
  return Weights.fromEntries(entries);
}

/** Queries, keys and values, which OpenCLIP keeps one below the other. */
function thirds(entry: WeightEntry): (readonly [string, WeightEntry])[] {
  const width = Math.floor(entry.shape[0] / 3);
  return ['q_proj', 'k_proj', 'v_proj'].map((name, i) => [
    name,
    rows(entry, i * width, (i + 1) * width),
  ]);
}

/** What names and shapes tell of a text encoder, under transformers' names. */
export function inferClip(weights: Weights): Record<string, unknown> {
  const [vocabulary, width] = weights.entry('text_model.embeddings.token_embedding.weight').shape;
  const [length] = weights.entry('text_model.embeddings.position_embedding.weight').shape;
  let layers = 0;
  while (weights.has(`text_model.encoder.layers.${layers}.layer_norm1.weight`)) layers++;
  return {
    vocab_size: vocabulary,
    hidden_size: width,
    intermediate_size: weights.entry('text_model.encoder.layers.0.mlp.fc1.weight').shape[0],
    num_hidden_layers: layers,
    num_attention_heads: width / 64,
    max_position_embeddings: length,
    // Stable Diffusion 1 has OpenAI's encoder (width 768), 2 has OpenCLIP's (1024).
    hidden_act: width === 768 ? 'quick_gelu' : 'gelu',
    ...(width === 768 ? {} : { eos_token_id: 2 }),
  };
}
