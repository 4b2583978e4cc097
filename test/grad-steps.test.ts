/** Gradients that leave something out are those of the function with that cut off: central differences of it. */

import { edit, EditConfig } from '@attune/adapter-edit';
import { lora } from '@attune/adapter-lora';
import {
  compose,
  ddim,
  loadModel,
  materialize,
  mix,
  type Model,
  ModelRunner,
  nominalDims,
  type Params,
  readAdapterFile,
  trainableInputs,
} from '@attune/core';
import { type F32Array, f32, OrtRuntime, Rng } from '@attune/engine';
import { relativeError } from '@attune/engine/testing';
import { type GradSteps, look, type RolloutStep, Student } from '@attune/fdd';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

const fixtures = 'test/parity/fixtures';
const runtime = new OrtRuntime({ threads: 1 });
const dims = { B: 1, F: 1, H: 8, W: 8, L: 16 };
const shape = [dims.F, 4, dims.H, dims.W];
const k = 3;
const view = {
  encoder_hidden_states: 'text.caption',
  'edit.encoder_hidden_states': 'text.instruction',
  'edit.image': 'source',
};
const batch = {
  arrays: { source: Rng.of(1).normals([dims.F, 3, 4 * dims.H, 4 * dims.W]) },
  text: { caption: ['a red dog'], instruction: ['make it red'] },
};
const noise = Rng.of(2).normals(shape);
const cotangent = Rng.of(6).normals(shape);

let model: Model;
let runner: ModelRunner;
let steps: readonly RolloutStep[];
/** One call of the student's net. */
let predict: (params: Params, x: F32Array, step: number) => Promise<F32Array>;

beforeAll(async () => {
  const editor = readAdapterFile(`${fixtures}/compose/pocket/edit`);
  const stack = compose(
    await loadModel(`${fixtures}/unet/pocket`),
    edit({ config: EditConfig.parse(editor.config), weights: editor.weights }),
    lora({ name: 'align', rank: 2, train: true }),
  );
  model = materialize(stack, { dims: nominalDims, seed: 4 });
  runner = new ModelRunner(model, runtime);
  const { schedule } = model;
  const times = schedule!.timesteps(k, 'trailing');
  steps = times.map((t, j) => ({
    feeds: { timestep: f32([t], [1]) },
    pairs: ddim(schedule!, t, times[j + 1] ?? null),
  }));
  const feeds = await look(runner, view, batch);
  const shapes = Object.fromEntries(Object.entries(feeds).map(([key, one]) => [key, one.shape]));
  const { program, standing } = runner.program({ net: 'unet', dims, shapes });
  const names = trainableInputs(model, program);
  predict = async (params, sample, step) => {
    const own = names.map((name) => [name, f32(params[name], program.inputs.get(name)!.shape)]);
    const all = { ...standing, ...feeds, ...Object.fromEntries(own) };
    return (await program.run({ ...all, ...steps[step].feeds, sample })).sample as F32Array;
  };
});
afterAll(() => runner.release());

/** A student on the times of `steps`. */
function studentOf(grad: GradSteps, remat: 'none' | 'step'): Student {
  const rollout = { steps: k, bins: 'fixed', first: 'terminal', grad, remat, memory: 1 } as const;
  return new Student(new ModelRunner(model, runtime), view, dims, rollout);
}

const dot = (a: ArrayLike<number>, b: ArrayLike<number>): number => {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
};

const off = (a: number, b: number): number => Math.abs(a - b) / Math.abs(b);

/** Generates from a step on; a net that is `shown` what it saw before does not see what changed. */
interface Cut {
  readonly from?: number;
  readonly shown?: boolean;
}

describe('the gradient of a rollout', () => {
  test.each<[string, GradSteps, 'none' | 'step']>([
    ['of the last step', { last: 1 }, 'none'],
    ['of the last two steps', { last: 2 }, 'step'],
    ['of all its steps, by number', { last: k }, 'step'],
    ['whose steps do not see each other', 'detach-input', 'none'],
  ])('%s', async (_, grad, remat) => {
    const student = studentOf(grad, remat);
    const at = student.initial();
    for (const name of student.names)
      if (name.endsWith('lora_B.weight')) {
        const own = Rng.of(5).fork(name);
        at[name] = at[name].map(() => 0.1 * own.normal());
      }
    const { rolled, back } = await student.generate(at, batch, noise, Rng.of(3));
    const { grads, noise: ofStart, sizes } = await back(cotangent);
    await student.release();

    const seen = [noise];
    for (const [j, { pairs }] of steps.entries())
      seen.push(mix(pairs, seen[j], await predict(at, seen[j], j)));
    expect(relativeError(rolled.latents, seen[k])).toBeLessThan(1e-5);

    const generated = async (
      params: Params,
      { from = 0, start, shown = false }: Cut & { start?: F32Array },
    ): Promise<number> => {
      let x = start ?? seen[from];
      for (let j = from; j < k; j++)
        x = mix(steps[j].pairs, x, await predict(params, shown ? seen[j] : x, j));
      return dot(x.data, cotangent.data);
    };
    const eps = 4e-3;
    const ways = Object.fromEntries(
      student.names.map((name) => [name, Rng.of(17).fork(name).normals([at[name].length]).data]),
    );
    const moved = (by: number) =>
      Object.fromEntries(
        student.names.map((name) => [name, at[name].map((x, i) => x + by * ways[name][i])]),
      );
    const slope = async (cut: Cut) =>
      ((await generated(moved(eps), cut)) - (await generated(moved(-eps), cut))) / (2 * eps);

    const cut: Cut = typeof grad === 'object' ? { from: k - grad.last } : { shown: true };
    const exact = student.names.reduce((sum, name) => sum + dot(grads[name].data, ways[name]), 0);
    expect(off(exact, await slope(cut))).toBeLessThan(1e-3);
    // What was cut off is no small part of it.
    if (cut.from !== 0) expect(off(exact, await slope({}))).toBeGreaterThan(2e-2);

    // The same for what the first of these steps begins with.
    const { from = 0 } = cut;
    const way = Rng.of(8).normals(shape).data;
    const begun = (by: number): F32Array => ({
      ...noise,
      data: seen[from].data.map((x, i) => x + by * way[i]),
    });
    const ends = [begun(eps), begun(-eps)].map((start) => generated(at, { ...cut, start }));
    const [up, down] = await Promise.all(ends);
    expect(off(dot(ofStart.data, way), (up - down) / (2 * eps))).toBeLessThan(1e-3);
    expect(sizes.map((size) => size > 0)).toEqual(sizes.map((__, j) => j >= from));
  });
});
