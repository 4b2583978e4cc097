import { f32, Weights } from '@attune/engine';
import { expect, test } from 'vitest';

import { checkTables, diffusersNames, inferredConfig } from '../src/original.ts';

const module = 'mid_block.motion_modules.0.temporal_transformer';
const table = (attention: number) =>
  `${module}.transformer_blocks.0.attention_blocks.${attention}.pos_encoder.pe`;

test('one position table stands for both attentions; two different ones are refused', () => {
  const one = f32([1, 2, 3, 4], [1, 2, 2]);
  const other = f32([1, 2, 3, 5], [1, 2, 2]);
  const path = 'motion.ckpt';
  const same = Weights.fromArrays({ [table(0)]: one, [table(1)]: one });
  checkTables({ path, weights: same });
  expect([...diffusersNames(same).names()]).toEqual([
    'mid_block.motion_modules.0.transformer_blocks.0.pos_embed.pe',
  ]);
  const two = Weights.fromArrays({ [table(0)]: one, [table(1)]: other });
  expect(() => checkTables({ path, weights: two })).toThrow(
    /^motion\.ckpt: .*attention_blocks\.1\.pos_encoder\.pe differ.*take other motion modules/,
  );
  const second = Weights.fromArrays({ [table(1)]: one });
  expect(() => checkTables({ path, weights: second })).toThrow(/There is no weight/);
});

test('names and shapes tell the config', () => {
  const arrays = [4, 8].flatMap((width, level) =>
    [0, 1].map((layer) => {
      const name = `down_blocks.${level}.motion_modules.${layer}.norm.weight`;
      return [name, f32(new Float32Array(width), [width])] as const;
    }),
  );
  const weights = Weights.fromArrays(new Map(arrays));
  expect(inferredConfig(weights)).toEqual({
    block_out_channels: [4, 8],
    motion_layers_per_block: 2,
    motion_transformer_layers_per_block: 0,
    use_motion_mid_block: false,
  });
});

const firstOf = (level: number | string) => `down_blocks.${level}.motion_modules.0.norm.weight`;

test('names that count to anything, and more of them than a call takes arguments', () => {
  const one = f32([1], [1]);
  const far = Weights.fromArrays({ [firstOf(0)]: one, [firstOf('99999999999')]: one });
  expect(() => inferredConfig(far)).toThrow(/There is no weight/);
  const many = Array.from({ length: 200_000 }, (_, i) => [`x.${i}`, one] as const);
  const weights = Weights.fromArrays(new Map([[firstOf(0), one], ...many]));
  expect(inferredConfig(weights)).toMatchObject({ block_out_channels: [1] });
});
