/** An edit + video stack on tiny random models, its teachers and its data: what distillations are tried on. */

import { edit, EditConfig } from '@attune/adapter-edit';
import { lora } from '@attune/adapter-lora';
import { video, VideoConfig } from '@attune/adapter-video';
import {
  compose,
  type DataSource,
  loadModel,
  materialize,
  type Model,
  ModelRunner,
  nominalDims,
  readAdapterFile,
} from '@attune/core';
import { f32, OrtRuntime, Rng } from '@attune/engine';
import { distill, DistillConfig, type DistillState, Student } from '@attune/fdd';
import { expect } from 'vitest';

const fixtures = 'test/parity/fixtures';
export const runtime = new OrtRuntime({ threads: 1 });
export const dims = { B: 1, F: 3, H: 32, W: 32, L: 16 };

export const open = (name: string) => readAdapterFile(`${fixtures}/compose/pocket/${name}`);

export const base = await loadModel(`${fixtures}/unet/pocket`);
const [v, e] = [open('video'), open('edit')];
const motion = video({ config: VideoConfig.parse(v.config), weights: v.weights });
const editor = edit({ config: EditConfig.parse(e.config), weights: e.weights });
export const plain = compose(base, motion, editor);
const align = lora({ name: 'align', rank: 2, train: true });
export const student = materialize(compose(plain, align), { dims: nominalDims, seed: 4 });
export const teachers: Record<string, Model> = {
  video: compose(base, motion),
  edit: compose(base, editor),
};
const other = lora({ name: 'fake', rank: 2, train: true });
export const fakes: Record<string, Model> = Object.fromEntries(
  Object.entries(teachers).map(([id, teacher]) => [
    id,
    materialize(compose(teacher, other), { dims: nominalDims, seed: 5 }),
  ]),
);

export const data: DataSource = {
  dims: { F: dims.F, H: dims.H, W: dims.W, L: dims.L },
  length: 4,
  batch: (ids, rng) => {
    const size = dims.F * 3 * dims.H * dims.W;
    const pixels = new Float32Array(ids.length * size);
    ids.forEach((id, i) => {
      const own = rng.fork(id);
      for (let k = 0; k < size; k++) pixels[i * size + k] = own.uniform();
    });
    return { source: f32(pixels, [ids.length * dims.F, 3, dims.H, dims.W]) };
  },
  prompts: (ids) => ({
    caption: ids.map((id) => ['a cat', 'a red dog', 'two cats', 'the sea'][id % 4]),
    instruction: ids.map(() => 'make it red'),
  }),
};

/** A recipe over the models above; stacks are given as models, so their files are not read. */
export function config(changes: Record<string, unknown> = {}): DistillConfig {
  const stack = { backbone: 'given' };
  const captions = { encoder_hidden_states: 'text.caption' };
  const editing = {
    ...captions,
    'edit.encoder_hidden_states': 'text.instruction',
    'edit.image': 'source',
  };
  const critic = { features: ['mid:unet.mid_block', 'hidden:unet.up_blocks.1.hidden.0'], width: 8 };
  return DistillConfig.parse({
    student: { stack, view: editing },
    teachers: {
      video: {
        stack,
        view: captions,
        critic: { ...critic, temporal: true },
        sampling: { steps: 2 },
      },
      edit: { stack, view: editing, guidance: { scale: 2 }, critic, sampling: { steps: 2 } },
    },
    rollout: { steps: 3 },
    phases: [
      { until: 2, sds: true, adversarial: false },
      { until: 4, sds: true, adversarial: true },
    ],
    batch: 2,
    micro: 1,
    lr: 1e-3,
    ema: 0.9,
    ...changes,
  });
}

export async function run(own: DistillConfig, from?: DistillState) {
  const states: DistillState[] = [];
  const rng = Rng.of(own.seed);
  for await (const { state, report } of distill(
    { student, teachers, fakes, data, config: own, runtime, rng },
    from,
  )) {
    expect(Number.isFinite(report.gradNorm)).toBe(true);
    expect(report.skipped).toBe(false);
    states.push(state);
  }
  return states;
}

export const latentShape = [dims.F, 4, dims.H / 4, dims.W / 4];

/** One batch of the data as a student reads it. */
export const batchOf = async () => ({
  arrays: await data.batch([0], Rng.of(1)),
  text: data.prompts!([0], Rng.of(1)),
});

export function openStudent(model: Model, k: number, remat = 'none'): Student {
  const own = config({ rollout: { steps: k, remat } });
  const sizes = { ...dims, H: dims.H / 4, W: dims.W / 4 };
  return new Student(new ModelRunner(model, runtime), own.student.view, sizes, own.rollout);
}
