import { edit, EditConfig } from '@attune/adapter-edit';
import { lora, readLora } from '@attune/adapter-lora';
import { video, VideoConfig } from '@attune/adapter-video';
import {
  compile,
  compose,
  inventory,
  readPart,
  standingFeeds,
  UNetConfig,
  unet,
  type Model,
} from '@attune/core';
import { openSafetensors, OrtRuntime, Weights, type NDArray, type F32Array } from '@attune/engine';
import { relativeError } from '@attune/engine/testing';
import { expect, test } from 'vitest';

const root = process.env.FIX ?? 'test/parity/fixtures/compose/pocket';
const dims = { B: 2, F: 3, H: 8, W: 12, L: 5 };
const nominal = { B: 1, F: 1, H: 64, W: 64, L: 8 };

function base(): Model {
  const part = readPart('test/parity/fixtures/unet/pocket/unet');
  return {
    nets: { unet: unet(UNetConfig.parse(part.config)) },
    weights: part.weights.prefixed('unet.'),
    adapters: [],
  };
}
const toRows = (a: NDArray): NDArray => {
  const [b, c, f, h, w] = a.shape;
  const out = new Float32Array(a.data.length);
  const src = a.data as Float32Array;
  for (let i = 0; i < b; i++)
    for (let j = 0; j < c; j++)
      for (let k = 0; k < f; k++)
        out.set(
          src.subarray(((i * c + j) * f + k) * h * w, ((i * c + j) * f + k + 1) * h * w),
          ((i * f + k) * c + j) * h * w,
        );
  return { dtype: 'f32', shape: [b * f, c, h, w], data: out };
};

async function load(file: string, m: Model, name: string) {
  const f = openSafetensors(`${root}/${file}`);
  const sites = inventory(m, nominal).sites;
  const addresses = new Set(
    [...sites].filter((s) => s.startsWith('layer:')).map((s) => s.slice(6)),
  );
  const { weights, modules } = readLora(
    { path: file, weights: Weights.fromFile(`${root}/${file}`), metadata: f.metadata },
    addresses,
  );
  return lora({ name, weights, modules, train: true });
}

for (const plan of [{ segments: 1 }, { segments: 4 }, { segments: 'marks' as const }])
  for (const remat of ['none', 'step', 'segment'] as const)
    test(`stack ${plan.segments} ${remat}`, async () => {
      let m = base();
      const e = readPart(`${root}/edit`);
      const v = readPart(`${root}/video`);
      m = compose(
        m,
        video({ config: VideoConfig.parse(v.config), weights: v.weights }),
        edit({ config: EditConfig.parse(e.config), weights: e.weights }),
      );
      m = compose(m, await load('look.safetensors', m, 'look'));
      m = compose(m, await load('sway.safetensors', m, 'sway'));
      const io = openSafetensors(`${root}/io.stack.safetensors`);
      const feeds: Record<string, NDArray> = {};
      for (const k of io.tensors.keys()) if (k.startsWith('in.')) feeds[k.slice(3)] = io.read(k);
      feeds.sample = toRows(feeds.sample);
      feeds.timestep = {
        dtype: 'f32',
        shape: feeds.timestep.shape,
        data: Float32Array.from(feeds.timestep.data as Float32Array, Number),
      };
      const runtime = new OrtRuntime({ threads: 1 });
      const program = compile(
        m,
        {
          net: 'unet',
          dims: { ...dims, L: 5 },
          shapes: Object.fromEntries(Object.entries(feeds).map(([k, v]) => [k, v.shape])),
        },
        { runtime, ...plan },
      );
      const all = { ...standingFeeds(m, program), ...feeds };
      const out = await program.run(all);
      console.log(
        'segments',
        program.segments.length,
        'fwd',
        relativeError(out.sample, toRows(io.read('out.sample'))),
      );
      const ours = (k: string) => k.replace('sway.unet.', 'sway.video.');
      const wrt = [...io.tensors.keys()]
        .filter((k) => k.startsWith('grad.'))
        .map((k) => k.slice(5));
      const sweep = program.sweep(wrt.map(ours), remat);
      const t0 = performance.now();
      const { grads } = await sweep.run(all, { sample: toRows(io.read('cot.sample')) });
      let worst = 0;
      let who = '';
      for (const k of wrt) {
        const want = io.read(`grad.${k}`);
        const err = relativeError(grads[ours(k)], k === 'sample' ? toRows(want) : want);
        if (err > worst) {
          worst = err;
          who = k;
        }
      }
      console.log('grad', worst, who, wrt.length, (performance.now() - t0).toFixed());
      expect(worst).toBeLessThan(5e-4);
      await program.release();
    });
