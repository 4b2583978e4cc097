/** Our side of the benchmarks; the protocol is torch_side.py's. */

import { join } from 'node:path';
import { createInterface } from 'node:readline';

import {
  compile,
  denoise,
  DenoiseOptions,
  findPlugins,
  materialize,
  nominalDims,
  openStack,
  PluginLoader,
  StackFile,
  standingFeeds,
  train,
  TrainConfig,
} from '@attune/core';
import { openSafetensors, OrtRuntime, Rng } from '@attune/engine';
import { distill, DistillConfig } from '@attune/fdd';

const jobs = {
  load: async ({ case: { work, ...rest }, folder, threads }) => {
    const runtime = new OrtRuntime({ threads });
    const file = openSafetensors(join(folder, 'io.safetensors'));
    const arrays = Object.fromEntries(
      [...file.tensors.keys()].map((name) => [name, file.read(name)]),
    );
    const make = { forward, distill: iteration, lora: step, train: step }[work];
    run = await make({ ...rest, work, folder, runtime }, arrays);
    return { value: await run() };
  },
  round: async ({ times }) => {
    const began = performance.now();
    let value;
    for (let i = 0; i < times; i++) value = await run();
    return { value, seconds: (performance.now() - began) / 1000 / times };
  },
  // Kilobytes on every system that Node runs on.
  peak: async () => ({ peak: 1024 * process.resourceUsage().maxRSS }),
};

let run;

const open = (folder, adapters = []) =>
  openStack(
    StackFile.parse({ backbone: folder, adapters }),
    folder,
    new PluginLoader(findPlugins(import.meta.dirname)),
    { fresh: true },
  );

async function forward({ folder, rows, latent, tokens, runtime }, { out, ...feeds }) {
  const model = await open(folder);
  const dims = { B: rows, F: 1, H: latent, W: latent, L: tokens };
  const shapes = { timestep: [rows] };
  const program = compile(model, { net: 'unet', dims, shapes }, { runtime });
  const standing = standingFeeds(model, program);
  const call = async () => (await program.run({ ...standing, ...feeds })).sample.data;
  const wrong = distance(await call(), out.data);
  if (!(wrong < 1e-3)) throw new Error(`differs from PyTorch by ${wrong} of the largest entry`);
  return async () => (await call())[0];
}

/** The largest difference, as a share of the largest entry. */
function distance(a, b) {
  let [difference, largest] = [0, 0];
  for (let i = 0; i < b.length; i++) {
    difference = Math.max(difference, Math.abs(a[i] - b[i]));
    largest = Math.max(largest, Math.abs(b[i]));
  }
  return difference / largest;
}

async function step({ work, folder, rows, micro, latent, tokens, unet, runtime }, arrays) {
  const targets = [
    'unet.**.attn*.to_q',
    'unet.**.attn*.to_k',
    'unet.**.attn*.to_v',
    'unet.**.attn*.to_out.0',
  ];
  const adapters =
    work === 'lora' ? [{ use: 'lora', rank: 16, alpha: 16, targets, train: true }] : [];
  const opened = await open(folder, adapters);
  // Latents come as they are: there is no autoencoder to say what they mean.
  const latents = { channels: unet.in_channels, factor: 1, scale: 1, shift: 0 };
  const model = materialize(
    { ...opened, latents, ...(work === 'train' ? { train: ['unet.**'] } : {}) },
    { dims: nominalDims, seed: 0 },
  );
  const take = ({ data, shape }, ids) => {
    const size = data.length / shape[0];
    const rowsOf = ids.map((id) => data.subarray((id % rows) * size, ((id % rows) + 1) * size));
    const joined = new Float32Array(size * ids.length);
    rowsOf.forEach((row, i) => joined.set(row, i * size));
    return { dtype: 'f32', shape: [ids.length, ...shape.slice(1)], data: joined };
  };
  const data = {
    dims: { B: 1, F: 1, H: latent, W: latent, L: tokens },
    batch: (ids) => ({
      latents: take(arrays.sample, ids),
      encoder_hidden_states: take(arrays.encoder_hidden_states, ids),
    }),
  };
  const training = train({
    model,
    objective: denoise(DenoiseOptions.parse({}), model),
    data,
    config: TrainConfig.parse({ steps: 1e6, batch: rows, micro }),
    runtime,
    rng: Rng.of(0),
  });
  return async () => (await training.next()).value.report.loss;
}

/** One iteration of a distillation whose teachers are the edit and the video adapter. */
async function iteration({ folder, rows, latent, tokens, unet, k, remat, runtime }, arrays) {
  const [edit, video] = ['edit', 'video'].map((use) => ({ use, from: join(folder, use) }));
  const align = {
    name: 'align',
    use: 'lora',
    rank: 16,
    alpha: 16,
    targets: ['unet.**.attn*.to_*', 'unet.**.attn*.to_out.0', 'unet.**.resnets.*.conv*'],
    train: true,
  };
  const opened = async (adapters) =>
    materialize(
      {
        ...(await open(folder, adapters)),
        latents: { channels: unet.in_channels, factor: 4, scale: 1, shift: 0 },
      },
      { dims: nominalDims, seed: 0 },
    );
  const fields = { encoder_hidden_states: 'text' };
  const edited = { ...fields, 'edit.encoder_hidden_states': 'instruction', 'edit.image': 'image' };
  const stack = { backbone: folder };
  const config = DistillConfig.parse({
    student: { stack, view: edited },
    teachers: { video: { stack, view: fields }, edit: { stack, view: edited } },
    rollout: { steps: k, remat },
    phases: [{ until: 1e6 }],
    batch: 1,
    lr: 1e-4,
  });
  const { encoder_hidden_states: texts, image, instruction } = arrays;
  const text = {
    ...texts,
    shape: [1, ...texts.shape.slice(1)],
    data: texts.data.subarray(0, texts.data.length / rows),
  };
  const iterations = distill({
    student: await opened([edit, video, align]),
    teachers: { video: await opened([video]), edit: await opened([edit]) },
    data: {
      dims: { B: 1, F: rows, H: 4 * latent, W: 4 * latent, L: tokens },
      batch: () => ({ text, image, instruction }),
    },
    config,
    runtime,
    rng: Rng.of(0),
  });
  return async () => (await iterations.next()).value.report.deviation;
}

for await (const line of createInterface({ input: process.stdin })) {
  const { do: what, ...request } = JSON.parse(line);
  console.log(JSON.stringify(await jobs[what](request)));
}
