import { describe, expect, test } from 'vitest';

import { matcher } from '../src/nn/address.ts';

const block = 'unet.down_blocks.0.attentions.1.transformer_blocks.0';

describe('selectors', () => {
  test.each([
    ['unet.**.to_q', `${block}.attn1.to_q`, true],
    ['unet.**.to_q', 'unet.to_q', true],
    ['unet.**.to_q', `${block}.attn1.to_q_lora`, false],
    ['unet.**', `${block}.attn1.to_q`, true],
    ['unet.**', 'unetwork.conv_in', false],
    ['unet.**.attn*.to_out.0', `${block}.attn2.to_out.0`, true],
    ['unet.*_blocks.*.resnets.0.conv1', 'unet.up_blocks.2.resnets.0.conv1', true],
    ['unet.*_blocks.*.resnets.0.conv1', 'unet.mid_block.resnets.0.conv1', false],
    ['unet.conv_in', 'unet.conv_in', true],
    ['unet.conv_in', 'unetXconv_in', false],
    ['**', 'unet.conv_in', true],
    ['**.conv_in', 'edit.controlnet_cond_embedding.conv_in', true],
    ['*.conv_in', 'edit.controlnet_cond_embedding.conv_in', false],
  ])('%s at %s: %s', (selector, address, matches) => {
    expect(matcher(selector).matches('layer', address)).toBe(matches);
  });

  test('the kind is part of it; layer is the default', () => {
    const skips = matcher('skip:unet.skips.*');
    expect(skips.matches('skip', 'unet.skips.11')).toBe(true);
    expect(skips.matches('layer', 'unet.skips.11')).toBe(false);
    expect(matcher('unet.conv_in').matches('hidden', 'unet.conv_in')).toBe(false);
  });

  test('a list matches where one of it does', () => {
    const both = matcher(['unet.conv_in', 'mid:unet.mid_block']);
    expect(both.matches('layer', 'unet.conv_in')).toBe(true);
    expect(both.matches('mid', 'unet.mid_block')).toBe(true);
    expect(both.matches('mid', 'unet.conv_in')).toBe(false);
  });

  test.each(['layr:unet.**', 'skip:', ''])('"%s" is refused, with the kinds', (selector) => {
    expect(() => matcher(selector)).toThrow(/write kind:pattern with a kind of layer, attention/);
  });
});
