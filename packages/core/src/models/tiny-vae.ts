/** AutoencoderTiny (TAESD): an encoder and a decoder of plain residual blocks. */

import { add, mul, relu, sub, tanh, type Tensor, upsample } from '@attune/engine';

import { conv } from '../nn/layers.ts';
import type { Scope } from '../nn/scope.ts';
import type { TinyVaeConfig } from './config.ts';
import type { Net } from './net.ts';

/** Three 3 × 3 convolutions with ReLU, a skip, a ReLU. */
function block(scope: Scope, x: Tensor, out: number): Tensor {
  let h = relu(conv(scope.at('conv', 0), x, out));
  h = relu(conv(scope.at('conv', 2), h, out));
  h = conv(scope.at('conv', 4), h, out);
  const skip = x.dim(1) === out ? x : conv(scope.at('skip'), x, out, { kernel: 1, bias: false });
  return relu(add(h, skip));
}

/** `pixels` [N, 3, H, W] in [-1, 1] → `latents` [N, C, H/f, W/f]. */
export function tinyEncoder(config: TinyVaeConfig): Net {
  return {
    name: 'vae',
    signature: ({ B, F, H, W }) => ({ pixels: { shape: [B * F, config.in_channels, H, W] } }),
    trace: (root, { inputs }) => {
      const scope = root.at('vae', 'encoder', 'layers');
      let n = 0;
      let x = mul(add(inputs.pixels, 1), 0.5); // the network works in [0, 1]
      config.num_encoder_blocks.forEach((blocks, i) => {
        const width = config.encoder_block_out_channels[i];
        x = conv(scope.at(n++), x, width, i === 0 ? {} : { stride: 2, bias: false, padding: 1 });
        for (let j = 0; j < blocks; j++) x = block(scope.at(n++), x, width);
      });
      return { latents: conv(scope.at(n), x, config.latent_channels) };
    },
  };
}

/** `latents` → `pixels` in [-1, 1] (not clipped). */
export function tinyDecoder(config: TinyVaeConfig): Net {
  return {
    name: 'vae',
    signature: ({ B, F, H, W }) => ({ latents: { shape: [B * F, config.latent_channels, H, W] } }),
    trace: (root, { inputs }) => {
      const scope = root.at('vae', 'decoder', 'layers');
      let x = mul(tanh(mul(inputs.latents, 1 / 3)), 3);
      let n = 0;
      x = relu(conv(scope.at(n++), x, config.decoder_block_out_channels[0]));
      n++; // the activation is a layer of its own
      const last = config.num_decoder_blocks.length - 1;
      config.num_decoder_blocks.forEach((blocks, i) => {
        const width = config.decoder_block_out_channels[i];
        for (let j = 0; j < blocks; j++) x = block(scope.at(n++), x, width);
        if (i < last) {
          x = upsample(x, config.upsampling_scaling_factor);
          n++;
        }
        const out = i < last ? width : config.out_channels;
        x = conv(scope.at(n++), x, out, { bias: i === last });
      });
      return { pixels: sub(mul(x, 2), 1) };
    },
  };
}
