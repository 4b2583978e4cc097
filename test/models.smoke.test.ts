import { existsSync, readdirSync } from 'node:fs';

import {
  compile,
  loadModel,
  standingFeeds,
  compose,
  tinyDecoder,
  tinyEncoder,
  unet,
  UNetConfig,
  clipText,
  ClipTextConfig,
  TinyVaeConfig,
  readPart,
  type Model,
} from '@attune/core';
import { openSafetensors, OrtRuntime, type NDArray, Weights } from '@attune/engine';
import { relativeError } from '@attune/engine/testing';
import { expect, test } from 'vitest';
const root = 'test/parity/fixtures';
const f32 = (a: NDArray): NDArray =>
  a.dtype === 'i64'
    ? { dtype: 'f32', shape: a.shape, data: Float32Array.from(a.data as BigInt64Array, Number) }
    : a;
async function check(m: Model, net: string, file: string, outs: Record<string, string>, dims: any) {
  const io = openSafetensors(file);
  const feeds: Record<string, NDArray> = {};
  for (const k of io.tensors.keys())
    if (k.startsWith('in.'))
      feeds[k.slice(3)] = k === 'in.input_ids' ? io.read(k) : f32(io.read(k));
  const p = compile(
    m,
    { net, dims, shapes: Object.fromEntries(Object.entries(feeds).map(([k, v]) => [k, v.shape])) },
    { runtime: new OrtRuntime({ threads: 1 }) },
  );
  const all = { ...standingFeeds(m, p), ...feeds };
  const out = await p.run(all);
  const rep: Record<string, number> = {};
  for (const k of io.tensors.keys())
    if (k.startsWith('out.') && out[k.slice(4)])
      rep[k] = relativeError(out[k.slice(4)], io.read(k));
  const g = [...io.tensors.keys()]
    .filter((k) => k.startsWith('grad.') && p.inputs.has(k.slice(5)))
    .map((k) => k.slice(5));
  if (g.length) {
    const { grads } = await p
      .sweep(g)
      .run(
        all,
        Object.fromEntries(
          [...io.tensors.keys()]
            .filter((k) => k.startsWith('cot.') && p.outputs[k.slice(4)])
            .map((k) => [k.slice(4), io.read(k)]),
        ),
      );
    for (const k of g) rep[`grad.${k}`] = relativeError(grads[k], io.read(`grad.${k}`));
  }
  console.log(file, JSON.stringify(rep), JSON.stringify([...io.tensors.keys()].slice(0, 12)));
  for (const [k, v] of Object.entries(rep))
    expect(v).toBeLessThan(k.startsWith('out') ? 5e-5 : 5e-4);
}
for (const name of readdirSync(`${root}/unet`))
  test(`unet ${name}`, async () => {
    const m = { ...loadModelUnet(`${root}/unet/${name}/unet`) };
    const io = openSafetensors(`${root}/unet/${name}/io.safetensors`);
    const [N, , H, W] = io.tensors.get('in.sample')!.shape;
    await check(m, 'unet', `${root}/unet/${name}/io.safetensors`, {}, { B: N, F: 1, H, W, L: 7 });
  });
function loadModelUnet(f: string): Model {
  const part = readPart(f);
  return {
    nets: { unet: unet(UNetConfig.parse(part.config)) },
    weights: part.weights.prefixed('unet.'),
    adapters: [],
  };
}
for (const name of ['tiny-f4', 'tiny-f8'])
  test(name, async () => {
    const m = loadModel(`${root}/vae/${name}`);
    const a = openSafetensors(`${root}/vae/${name}/io.encode.safetensors`).tensors.get(
      'in.pixels',
    )!.shape;
    const b = openSafetensors(`${root}/vae/${name}/io.decode.safetensors`).tensors.get(
      'in.latents',
    )!.shape;
    await check(
      m,
      'vae_encoder',
      `${root}/vae/${name}/io.encode.safetensors`,
      {},
      { B: a[0], F: 1, H: a[2], W: a[3] },
    );
    await check(
      m,
      'vae_decoder',
      `${root}/vae/${name}/io.decode.safetensors`,
      {},
      { B: b[0], F: 1, H: b[2], W: b[3] },
    );
  });
for (const name of ['exact', 'quick'])
  test(`clip ${name}`, async () => {
    for (const f of readdirSync(`${root}/clip/${name}`)) console.log(f);
    const parts = readdirSync(`${root}/clip/${name}`).filter((f) =>
      existsSync(`${root}/clip/${name}/${f}/config.json`),
    );
    for (const p of parts) {
      const part = readPart(`${root}/clip/${name}/${p}`);
      const w = [...part.weights.names()][0].startsWith('text_model.')
        ? part.weights
        : part.weights.prefixed('text_model.');
      const m: Model = {
        nets: { text_encoder: clipText(ClipTextConfig.parse(part.config)) },
        weights: w.prefixed('text_encoder.'),
        adapters: [],
      };
      for (const io of readdirSync(`${root}/clip/${name}`).filter((f) => f.startsWith('io'))) {
        const s = openSafetensors(`${root}/clip/${name}/${io}`).tensors.get('in.input_ids')!.shape;
        await check(
          m,
          'text_encoder',
          `${root}/clip/${name}/${io}`,
          {},
          { B: s[0], F: 1, L: s[1] },
        );
      }
    }
  });
