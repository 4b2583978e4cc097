// An AutoencoderTiny with more blocks, computing what the shallower one computes: added blocks stand
// after the old ones of their stage, and since those end in a ReLU, a block whose last convolution is
// zero passes them on unchanged. deepen(from, to): model folders; `to` has the deeper config.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

import { Rng, Weights, writeSafetensors } from '@attune/engine';

/** The numbered layers of one half: what each is, in the order of diffusers' nn.Sequential. */
function layers(config, half) {
  const list = [];
  const add = (key) => list.push(key);
  if (half === 'encoder') {
    config.num_encoder_blocks.forEach((blocks, i) => {
      add(`conv ${i}`);
      for (let j = 0; j < blocks; j++) add(`block ${i} ${j}`);
    });
    add('conv out');
  } else {
    add('conv in');
    add('relu');
    config.num_decoder_blocks.forEach((blocks, i) => {
      for (let j = 0; j < blocks; j++) add(`block ${i} ${j}`);
      if (i + 1 < config.num_decoder_blocks.length) add(`upsample ${i}`);
      add(`conv ${i}`);
    });
  }
  return list;
}

const configOf = (folder) => JSON.parse(readFileSync(join(folder, 'vae', 'config.json'), 'utf8'));

export function deepen(from, to, seed = 0) {
  const [old, wanted] = [configOf(from), configOf(to)];
  const weights = Weights.fromFile(join(from, 'vae', 'diffusion_pytorch_model.safetensors'));
  const out = {};
  for (const half of ['encoder', 'decoder']) {
    const before = layers(old, half);
    const width = wanted[`${half}_block_out_channels`][0];
    layers(wanted, half).forEach((key, n) => {
      const source = before.indexOf(key);
      if (source >= 0) {
        const prefix = `${half}.layers.${source}.`;
        for (const name of weights.names())
          if (name.startsWith(prefix))
            out[`${half}.layers.${n}.${name.slice(prefix.length)}`] = weights.entry(name).load();
        return;
      }
      const rng = Rng.of(seed).fork(half, n);
      const bound = 1 / Math.sqrt(width * 9);
      for (const conv of [0, 2, 4]) {
        const draw = (size) =>
          Float32Array.from({ length: size }, () =>
            conv === 4 ? 0 : (2 * rng.uniform() - 1) * bound,
          );
        const place = `${half}.layers.${n}.conv.${conv}`;
        out[`${place}.weight`] = {
          dtype: 'f32',
          shape: [width, width, 3, 3],
          data: draw(width * width * 9),
        };
        out[`${place}.bias`] = { dtype: 'f32', shape: [width], data: draw(width) };
      }
    });
  }
  writeSafetensors(join(to, 'vae', 'diffusion_pytorch_model.safetensors'), out, { format: 'pt' });
}
