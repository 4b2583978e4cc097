/** A critic's heads learn to tell generated features from real ones. */

import { adamw } from '@attune/core';
import { type F32Array, OrtRuntime, Rng } from '@attune/engine';
import { afterAll, describe, expect, test } from 'vitest';

import { CriticConfig } from '../src/config.ts';
import { Critic } from '../src/critic.ts';

const runtime = new OrtRuntime({ threads: 1 });
afterAll(() => runtime.release());

const site = 'mid:unet.mid_block';
const shape = [4, 8, 3, 3];

/** Pairs that share their content; only a faint pattern over channels tells the real one. */
function pair(rng: Rng): { real: F32Array; fake: F32Array } {
  const fake = rng.normals(shape);
  const data = fake.data.map((x, i) => x + 0.3 * (Math.floor(i / 9) % 2 ? 1 : -1));
  return { real: { ...fake, data }, fake };
}

async function trained(loss: 'hinge' | 'softplus' | 'relativistic', steps: number) {
  const config = CriticConfig.parse({ width: 32, loss });
  const critic = new Critic('c', new Map([[site, shape]]), { B: 1, F: 4 }, config, runtime);
  const rng = Rng.of(3);
  let params: Readonly<Record<string, Float32Array>> = critic.initial(rng.fork('init'));
  const optimizer = adamw({ betas: [0, 0.99], weightDecay: 0 });
  let state = optimizer.init(params);
  const right: number[] = [];
  for (let step = 0; step < steps; step++) {
    const { real, fake } = pair(rng.fork('pair', step));
    const turn = await critic.learn(params, { [site]: real }, { [site]: fake });
    [params, state] = optimizer.update(turn.grads, state, params, 2e-3);
    right.push(turn.right);
  }
  const { real } = pair(rng.fork('more'));
  const { cotangents } = await critic.judge(params, { [site]: real });
  await critic.release();
  const late = right.slice(-20);
  return { right: late.reduce((a, b) => a + b) / late.length, cotangent: cotangents[site] };
}

describe('the heads', () => {
  test.each(['hinge', 'softplus', 'relativistic'] as const)('learn with %s', async (loss) => {
    const { right, cotangent } = await trained(loss, 150);
    expect(right).toBeGreaterThan(0.6);
    // −D falls towards the real pattern.
    const towards = cotangent.data.reduce(
      (sum, g, i) => sum - g * (Math.floor(i / 9) % 2 ? 1 : -1),
      0,
    );
    expect(towards).toBeGreaterThan(0);
  });

  test('tell a pair apart sooner when its common content cancels', async () => {
    const [alone, paired] = [await trained('hinge', 60), await trained('relativistic', 60)];
    expect(paired.right).toBeGreaterThan(alone.right + 0.1);
  });
});
