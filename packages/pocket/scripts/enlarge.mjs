// An AutoencoderTiny with more blocks or latent channels, computing what the smaller one computes: added
// blocks stand after the old ones of their stage, and since those end in a ReLU, a block whose last
// convolution is zero passes them on unchanged (but for the first block of a stage that had none); the
// decoder weighs an added latent channel with zero.
// enlarge(from, target): model folders; the target has the larger config.
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

/** `tensor` (of `shape`, row-major) enlarged to `to` along its first two axes; `draw` gives each new entry. */
function enlarged({ shape, data }, to, draw) {
  const inner = shape.slice(2).reduce((a, b) => a * b, 1);
  const size = to.reduce((a, b) => a * b, 1);
  const [rows, columns] = shape.length === 1 ? [shape[0], 1] : shape;
  const wide = to.length === 1 ? 1 : to[1];
  const out = Float32Array.from({ length: size }, (_, i) => {
    const [row, column] = [Math.floor(i / (inner * wide)), Math.floor(i / inner) % wide];
    if (row >= rows || column >= columns) return draw();
    return data[(row * columns + column) * inner + (i % inner)];
  });
  return { dtype: 'f32', shape: to, data: out };
}

const configOf = (folder) => JSON.parse(readFileSync(join(folder, 'vae', 'config.json'), 'utf8'));

export function enlarge(from, target, seed = 0) {
  const [old, wanted] = [configOf(from), configOf(target)];
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
        if (key === 'conv out') {
          const drawn = Rng.of(seed).fork('latents');
          for (const part of ['weight', 'bias']) {
            const name = `encoder.layers.${n}.${part}`;
            const to = [wanted.latent_channels, ...out[name].shape.slice(1)];
            out[name] = enlarged(out[name], to, () => (drawn.uniform() - 0.5) / Math.sqrt(width));
          }
        }
        if (key === 'conv in') {
          const name = `decoder.layers.${n}.weight`;
          const [rows, , ...kernel] = out[name].shape;
          out[name] = enlarged(out[name], [rows, wanted.latent_channels, ...kernel], () => 0);
        }
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
  writeSafetensors(join(target, 'vae', 'diffusion_pytorch_model.safetensors'), out, {
    format: 'pt',
  });
}
