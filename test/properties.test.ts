/**
 * Files of the LoRA family with random modules, ranks, alphas and algorithms, many in one file: written,
 * detected, loaded, and the weight that each layer then has, against formulas of float64 written here.
 */

import { mkdirSync, mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import {
  compile,
  compose,
  conv,
  findPlugins,
  groupNorm,
  linear,
  materialize,
  type Model,
  type Net,
  nominalDims,
  PluginLoader,
  readAdapterFile,
  standingFeeds,
} from '@attune/core';
import {
  f32,
  type F32Array,
  type NDArray,
  OrtRuntime,
  Rng,
  toF32,
  Weights,
  writeSafetensors,
} from '@attune/engine';
import { expect, test } from 'vitest';

const loader = new PluginLoader(findPlugins('packages/cli'));
const runtime = new OrtRuntime({ threads: 1 });
const folder = mkdtempSync(join(tmpdir(), 'properties-'));

type Layer =
  | { readonly kind: 'linear' | 'conv' | 'point'; readonly out: number; readonly into: number }
  | { readonly kind: 'norm'; readonly out: number };

/** Layers under names that models have. */
const layers: Readonly<Record<string, Layer>> = {
  'unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q': {
    kind: 'linear',
    out: 8,
    into: 12,
  },
  'unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0': {
    kind: 'linear',
    out: 12,
    into: 8,
  },
  'unet.mid_block.attentions.0.proj_in': { kind: 'point', out: 6, into: 4 },
  'unet.up_blocks.1.resnets.2.conv1': { kind: 'conv', out: 6, into: 4 },
  'unet.up_blocks.1.resnets.2.norm1': { kind: 'norm', out: 8 },
  'text_encoder.text_model.encoder.layers.0.self_attn.q_proj': { kind: 'linear', out: 6, into: 6 },
  'text_encoder.text_model.encoder.layers.0.mlp.fc1': { kind: 'linear', out: 4, into: 9 },
};

const sizeOf = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);
const shapeOf = (layer: Layer): number[] =>
  layer.kind === 'norm'
    ? [layer.out]
    : [
        layer.out,
        layer.into,
        ...(layer.kind === 'linear' ? [] : layer.kind === 'conv' ? [3, 3] : [1, 1]),
      ];

/** Inputs that show a layer's weight: unit vectors, or one bright pixel a channel. */
function probe(layer: Layer): F32Array {
  if (layer.kind === 'norm') return Rng.of(3).normals([1, layer.out, 2, 2]);
  const side = layer.kind === 'linear' ? [] : layer.kind === 'conv' ? [3, 3] : [1, 1];
  const shape = [layer.into, layer.into, ...side];
  const data = new Float32Array(sizeOf(shape));
  const area = sizeOf(side);
  for (let i = 0; i < layer.into; i++) data[(i * layer.into + i) * area + Math.floor(area / 2)] = 1;
  return f32(data, shape);
}

function netOf(name: string): Net {
  const own = Object.entries(layers).filter(([address]) => address.startsWith(`${name}.`));
  return {
    name,
    signature: () =>
      Object.fromEntries(own.map(([address, layer]) => [address, { shape: probe(layer).shape }])),
    trace: (root, { inputs }) =>
      Object.fromEntries(
        own.map(([address, layer]) => {
          const scope = root.at(...address.split('.'));
          const x = inputs[address];
          const y =
            layer.kind === 'linear'
              ? linear(scope, x, layer.out)
              : layer.kind === 'norm'
                ? groupNorm(scope, x, 2, 1e-5)
                : conv(scope, x, layer.out, {
                    kernel: layer.kind === 'conv' ? 3 : 1,
                    padding: layer.kind === 'conv' ? 1 : 0,
                  });
          return [`y.${address}`, y];
        }),
      ),
  };
}

function base(rng: Rng): Model {
  const arrays = Object.entries(layers).flatMap(([address, layer]) => [
    [`${address}.weight`, rng.fork(address, 'w').normals(shapeOf(layer))] as const,
    [`${address}.bias`, rng.fork(address, 'b').normals([layer.out])] as const,
  ]);
  return {
    nets: { unet: netOf('unet'), text_encoder: netOf('text_encoder') },
    weights: Weights.fromArrays(Object.fromEntries(arrays)),
    adapters: [],
  };
}

type Numbers = Float64Array;
const numbers = (array: NDArray): Numbers => Float64Array.from(toF32(array).data);

/** [rows, inner] · [inner, columns]. */
function product(a: Numbers, b: Numbers, rows: number, inner: number): Numbers {
  const columns = b.length / inner;
  const out = new Float64Array(rows * columns);
  for (let i = 0; i < rows; i++)
    for (let k = 0; k < inner; k++)
      for (let j = 0; j < columns; j++)
        out[i * columns + j] += a[i * inner + k] * b[k * columns + j];
  return out;
}

/** Σ t[m, n, kernel] · a[m, o] · b[n, i] → [o, i, kernel]. */
function tucker(t: Numbers, a: Numbers, b: Numbers, rank: number, out: number): Numbers {
  const into = b.length / rank;
  const area = t.length / (rank * rank);
  const made = new Float64Array(out * into * area);
  for (let m = 0; m < rank; m++)
    for (let n = 0; n < rank; n++)
      for (let o = 0; o < out; o++)
        for (let i = 0; i < into; i++)
          for (let k = 0; k < area; k++)
            made[(o * into + i) * area + k] +=
              t[(m * rank + n) * area + k] * a[m * out + o] * b[n * into + i];
  return made;
}

interface Made {
  /** Tensors by the leaf that LyCORIS writes. */
  readonly leaves: Record<string, NDArray>;
  /** The weight and the bias that they make. */
  readonly weight: Numbers;
  readonly bias: Numbers;
}

interface Draw {
  readonly rng: Rng;
  readonly layer: Layer;
  readonly weight: Numbers;
  readonly bias: Numbers;
}

/** Random numbers of a shape, as they are stored, and in float64. */
function drawer(rng: Rng) {
  let at = 0;
  return (...shape: number[]): [F32Array, Numbers] => {
    const array = rng.fork(at++).normals(shape);
    return [array, numbers(array)];
  };
}

/** alpha / rank as files have it: an alpha of its own, none, or the 0 that means none. */
function scaled(leaves: Record<string, NDArray>, rng: Rng, rank: number | undefined): number {
  const kind = rng.int(4);
  if (kind === 0) return 1;
  const alpha = kind === 1 ? 0 : 0.25 + 8 * rng.uniform();
  leaves.alpha = f32([alpha], []);
  return rank === undefined || alpha === 0 ? 1 : Math.fround(alpha) / rank;
}

const plus = (a: Numbers, b: Numbers, scale: number): Numbers => a.map((v, i) => v + scale * b[i]);

/** W′ = m · V / ‖V‖ over all axes but one. */
function magnified(v: Numbers, magnitude: Numbers, shape: readonly number[], axis: 0 | 1): Numbers {
  const area = sizeOf(shape.slice(2));
  const of = (i: number): number =>
    axis === 0 ? Math.floor(i / (shape[1] * area)) : Math.floor(i / area) % shape[1];
  const squares = new Float64Array(shape[axis]);
  v.forEach((value, i) => (squares[of(i)] += value * value));
  return v.map((value, i) => (magnitude[of(i)] * value) / Math.sqrt(squares[of(i)]));
}

/** A module of a random algorithm, its tensors and what they make of the layer. */
function module({ rng, layer, weight, bias }: Draw): Made {
  const draw = drawer(rng.fork('draw'));
  const leaves: Record<string, NDArray> = {};
  const put = (leaf: string, ...shape: number[]): Numbers => {
    const [array, values] = draw(...shape);
    leaves[leaf] = array;
    return values;
  };
  const shape = shapeOf(layer);
  if (layer.kind === 'norm') {
    const w = put('w_norm', ...shape);
    return { leaves, weight: plus(weight, w, 1), bias: plus(bias, put('b_norm', layer.out), 1) };
  }
  const { out, into, kind } = layer;
  const area = sizeOf(shape.slice(2));
  const kernel = shape.slice(2);
  const ones = kernel.map(() => 1);
  const rank = 1 + rng.int(3);
  const deep = kind === 'conv' && rng.uniform() < 0.5;
  const algorithm = ['lora', 'loha', 'lokr', 'full', 'dora'][rng.int(5)];
  if (algorithm === 'full') {
    const diff = put('diff', ...shape);
    const other = rng.uniform() < 0.5 ? put('diff_b', out) : undefined;
    return { leaves, weight: plus(weight, diff, 1), bias: other ? plus(bias, other, 1) : bias };
  }
  let delta: Numbers;
  let ranked: number | undefined = rank;
  if (algorithm === 'lora' || algorithm === 'dora') {
    const up = put('lora_up.weight', out, rank, ...ones);
    if (deep) {
      const mid = put('lora_mid.weight', rank, rank, ...kernel);
      const down = put('lora_down.weight', rank, into, ...ones);
      const turned = new Float64Array(up.length);
      for (let o = 0; o < out; o++)
        for (let m = 0; m < rank; m++) turned[m * out + o] = up[o * rank + m];
      delta = tucker(mid, turned, down, rank, out);
    } else delta = product(up, put('lora_down.weight', rank, into, ...kernel), out, rank);
  } else if (algorithm === 'loha') {
    const [one, two] = [1, 2].map((i) => {
      if (deep) {
        const t = put(`hada_t${i}`, rank, rank, ...kernel);
        const a = put(`hada_w${i}_a`, rank, out);
        return tucker(t, a, put(`hada_w${i}_b`, rank, into), rank, out);
      }
      return product(
        put(`hada_w${i}_a`, out, rank),
        put(`hada_w${i}_b`, rank, into * area),
        out,
        rank,
      );
    });
    delta = one.map((v, i) => v * two[i]);
  } else {
    const [a, b] = [out % 3 === 0 ? 3 : 2, into % 2 === 0 ? 2 : 3];
    const [c, d] = [out / a, into / b];
    const [fullOne, fullTwo] = [rng.uniform() < 0.5, rng.uniform() < 0.5];
    const one = fullOne
      ? put('lokr_w1', a, b)
      : product(put('lokr_w1_a', a, rank), put('lokr_w1_b', rank, b), a, rank);
    const two = fullTwo
      ? put('lokr_w2', c, d, ...kernel)
      : deep
        ? tucker(
            put('lokr_t2', rank, rank, ...kernel),
            put('lokr_w2_a', rank, c),
            put('lokr_w2_b', rank, d),
            rank,
            c,
          )
        : product(put('lokr_w2_a', c, rank), put('lokr_w2_b', rank, d * area), c, rank);
    if (fullOne && fullTwo) ranked = undefined;
    delta = new Float64Array(weight.length);
    for (let i = 0; i < out; i++)
      for (let j = 0; j < into; j++)
        for (let k = 0; k < area; k++)
          delta[(i * into + j) * area + k] =
            one[Math.floor(i / c) * b + Math.floor(j / d)] *
            two[((i % c) * d + (j % d)) * area + k];
  }
  const changed = plus(weight, delta, scaled(leaves, rng, ranked));
  if (algorithm !== 'dora') return { leaves, weight: changed, bias };
  const axis = rng.uniform() < 0.5 ? 0 : 1;
  const magnitude = put('dora_scale', ...(axis === 0 ? [out, 1, ...ones] : [1, into, ...ones]));
  return { leaves, weight: magnified(changed, magnitude, shape, axis), bias };
}

/** What a layer gives for its probe. */
function shown(layer: Layer, weight: Numbers, bias: Numbers): Numbers {
  const x = numbers(probe(layer));
  if (layer.kind === 'norm') {
    const [groups, area] = [2, 4];
    const size = x.length / groups;
    return x.map((value, i) => {
      const own = x.subarray(Math.floor(i / size) * size, (Math.floor(i / size) + 1) * size);
      const mean = own.reduce((a, b) => a + b, 0) / size;
      const spread = own.reduce((a, b) => a + (b - mean) ** 2, 0) / size;
      const c = Math.floor(i / area);
      return ((value - mean) / Math.sqrt(spread + 1e-5)) * weight[c] + bias[c];
    });
  }
  const { out, into } = layer;
  const area = sizeOf(shapeOf(layer).slice(2));
  const y = new Float64Array(into * out * area);
  for (let i = 0; i < into; i++)
    for (let o = 0; o < out; o++)
      for (let k = 0; k < area; k++)
        // A convolution shows its kernel turned round.
        y[(i * out + o) * area + k] = weight[(o * into + i) * area + (area - 1 - k)] + bias[o];
  return y;
}

/** The largest difference relative to the largest number. */
function far(got: NDArray, want: Numbers): number {
  const values = numbers(got);
  expect(values.length).toBe(want.length);
  let [worst, most] = [0, 0];
  want.forEach((value, i) => {
    worst = Math.max(worst, Math.abs(value - values[i]));
    most = Math.max(most, Math.abs(value));
  });
  return worst / most;
}

/** Loads a file through its kind and compares every layer of the model with what it should have become. */
async function check(
  path: string,
  model: Model,
  expected: ReadonlyMap<string, Made>,
): Promise<string> {
  const file = readAdapterFile(path);
  const kind = await loader.get('adapters', 'lora');
  const detection = kind.detect!(file)!;
  const adapter = kind.create({ name: 'look', model, file }, kind.options.parse({}));
  const whole = materialize(compose(model, adapter), { dims: nominalDims });
  for (const net of ['unet', 'text_encoder']) {
    const program = compile(whole, { net, dims: nominalDims }, { runtime });
    const own = Object.entries(layers).filter(([address]) => address.startsWith(`${net}.`));
    const outputs = await program.run({
      ...Object.fromEntries(own.map(([address, layer]) => [address, probe(layer)])),
      ...standingFeeds(whole, program),
    });
    await program.release();
    for (const [address, layer] of own) {
      const made = expected.get(address);
      const [weight, bias] = ['weight', 'bias'].map((leaf) =>
        numbers(model.weights.entry(`${address}.${leaf}`).load()),
      );
      const want = shown(layer, made?.weight ?? weight, made?.bias ?? bias);
      const error = far(outputs[`y.${address}`], want);
      expect({
        path,
        address,
        leaves: Object.keys(made?.leaves ?? {}),
        near: error < 1e-5,
      }).toMatchObject({ near: true });
    }
  }
  return detection.dialect;
}

/** A random part of the layers, at least one of them. */
function chosen(rng: Rng, of: readonly string[]): string[] {
  const some = of.filter((_, i) => rng.fork('in', i).uniform() < 0.7);
  return some.length > 0 ? some : [of[rng.int(of.length)]];
}

const flat = (address: string): string => {
  const [net, ...rest] = address.split('.');
  return `${net === 'unet' ? 'lora_unet' : 'lora_te'}_${rest.join('_')}`;
};

test('40 files of LyCORIS and kohya, algorithms mixed', async () => {
  for (let k = 0; k < 40; k++) {
    const rng = Rng.of(31).fork(k);
    const model = base(rng.fork('base'));
    const bare = k % 4 === 3; // LyCORIS by itself names the UNet alone
    const names = chosen(
      rng,
      Object.keys(layers).filter((name) => !bare || name.startsWith('unet.')),
    );
    const expected = new Map<string, Made>();
    const tensors: Record<string, NDArray> = {};
    for (const address of names) {
      const [weight, bias] = ['weight', 'bias'].map((leaf) =>
        numbers(model.weights.entry(`${address}.${leaf}`).load()),
      );
      const made = module({ rng: rng.fork(address), layer: layers[address], weight, bias });
      expected.set(address, made);
      const name = bare ? flat(address).replace('lora_unet', 'lycoris') : flat(address);
      for (const [leaf, array] of Object.entries(made.leaves)) tensors[`${name}.${leaf}`] = array;
    }
    const path = join(folder, `mixed-${k}.safetensors`);
    writeSafetensors(path, tensors);
    expect(await check(path, model, expected)).toBe(bare ? 'lycoris' : 'kohya');
  }
});

/** PEFT's files: a config with patterns, rank-stabilised or not, with magnitudes or not. */
test.each(['folder', 'one file with a header'])('30 of PEFT: %s', async (form) => {
  for (let k = 0; k < 30; k++) {
    const rng = Rng.of(32).fork(form, k);
    const model = base(rng.fork('base'));
    const able = Object.keys(layers).filter((name) => layers[name].kind !== 'norm');
    const net = k % 2 ? 'unet' : 'text_encoder';
    const names = chosen(
      rng,
      able.filter((name) => name.startsWith(`${net}.`)),
    );
    const [stable, dora] = [rng.uniform() < 0.5, rng.uniform() < 0.4];
    const rank_pattern: Record<string, number> = {};
    const alpha_pattern: Record<string, number> = {};
    const [r, lora_alpha] = [1 + rng.int(4), 1 + rng.int(16)];
    const expected = new Map<string, Made>();
    const tensors: Record<string, NDArray> = {};
    for (const address of names) {
      const own = rng.fork(address);
      const layer = layers[address] as Exclude<Layer, { kind: 'norm' }>;
      const shape = shapeOf(layer);
      const path = address.slice(net.length + 1);
      const key = own.uniform() < 0.5 ? path : path.split('.').slice(-2).join('.');
      const rank = own.uniform() < 0.5 ? (rank_pattern[key] = 1 + own.int(4)) : r;
      const alpha = own.uniform() < 0.5 ? (alpha_pattern[key] = 1 + own.int(16)) : lora_alpha;
      const draw = drawer(own.fork('draw'));
      const ones = shape.slice(2).map(() => 1);
      const [a, down] = draw(rank, ...shape.slice(1));
      const [b, up] = draw(layer.out, rank, ...ones);
      const prefix = form === 'folder' ? `base_model.model.${path}` : address;
      tensors[`${prefix}.lora_A.weight`] = a;
      tensors[`${prefix}.lora_B.weight`] = b;
      const [weight, bias] = ['weight', 'bias'].map((leaf) =>
        numbers(model.weights.entry(`${address}.${leaf}`).load()),
      );
      const delta = product(up, down, layer.out, rank);
      let made = plus(weight, delta, alpha / (stable ? Math.sqrt(rank) : rank));
      if (dora) {
        const linearly = layer.kind === 'linear';
        const [array, magnitude] = linearly ? draw(layer.out) : draw(1, layer.out, ...ones);
        tensors[`${prefix}.lora_magnitude_vector${linearly ? '' : '.weight'}`] = array;
        made = magnified(made, magnitude, shape, 0);
      }
      expected.set(address, { leaves: {}, weight: made, bias });
    }
    const config = {
      peft_type: 'LORA',
      r,
      lora_alpha,
      rank_pattern,
      alpha_pattern,
      use_rslora: stable,
      use_dora: dora,
    };
    const place = join(folder, `peft-${form.length}-${k}`);
    if (form === 'folder') {
      mkdirSync(place);
      writeFileSync(join(place, 'adapter_config.json'), JSON.stringify(config));
      writeSafetensors(join(place, 'adapter_model.safetensors'), tensors);
    } else {
      const own = Object.fromEntries(
        Object.entries(config).map(([name, value]) => [`${net}.${name}`, value]),
      );
      writeSafetensors(`${place}.safetensors`, tensors, {
        lora_adapter_metadata: JSON.stringify(own),
      });
    }
    const dialect = await check(
      form === 'folder' ? place : `${place}.safetensors`,
      model,
      expected,
    );
    expect(dialect).toBe(form === 'folder' ? 'peft' : 'diffusers');
  }
});
