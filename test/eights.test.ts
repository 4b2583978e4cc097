/** Weights in 8-bit floats: a model and a LoRA of them act as the numbers they say, and are in the lock. */

import { createHash } from 'node:crypto';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

import { StackLock } from '@attune/core';
import { openSafetensors, toF32, Weights, writeSafetensors } from '@attune/engine';
import { relativeError } from '@attune/engine/testing';
import { expect, test } from 'vitest';

import { attune } from './attune.ts';

const fixtures = resolve('test/parity/fixtures');
const codes = Weights.fromFile(`${fixtures}/checkpoints/eights.f16.safetensors`);
const folder = mkdtempSync(join(tmpdir(), 'eights-'));

/** What PyTorch reads of each code. */
const told = (type: 'e4m3' | 'e5m2'): Float32Array => toF32(codes.entry(type).load()).data;

/** A file's tensors as the nearest 8-bit floats, and the same numbers as f32. */
function narrowed(from: string, to: string, wide: string, type: 'e4m3' | 'e5m2'): void {
  const source = openSafetensors(from);
  const known = told(type);
  const order = Array.from({ length: 256 }, (_, code) => code)
    .filter((code) => Number.isFinite(known[code]))
    .toSorted((a, b) => known[a] - known[b]);
  const nearest = (value: number): number => {
    let [low, high] = [0, order.length - 1];
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (known[order[middle]] <= value) low = middle;
      else high = middle;
    }
    const [below, above] = [order[low], order[high]];
    return value - known[below] < known[above] - value ? below : above;
  };
  const header: Record<string, unknown> = { __metadata__: source.metadata };
  const payload: Uint8Array[] = [];
  const floats: Record<string, ReturnType<typeof toF32>> = {};
  let at = 0;
  for (const name of source.tensors.keys()) {
    const { data, shape } = toF32(source.read(name));
    const bytes = Uint8Array.from(data, nearest);
    floats[name] = { dtype: 'f32', shape, data: Float32Array.from(bytes, (code) => known[code]) };
    header[name] = {
      dtype: `F8_${type.toUpperCase()}`,
      shape,
      data_offsets: [at, at + bytes.length],
    };
    payload.push(bytes);
    at += bytes.length;
  }
  const text = Buffer.from(JSON.stringify(header));
  const head = Buffer.alloc(8);
  head.writeBigUInt64LE(BigInt(text.length));
  writeFileSync(to, Buffer.concat([head, text, ...payload]));
  writeSafetensors(wide, floats, source.metadata);
}

/** A stack of the pocket UNet and a LoRA, in a folder of its own. */
function stackIn(name: string): Record<'folder' | 'model' | 'look' | 'stack', string> {
  const own = join(folder, name);
  mkdirSync(own);
  cpSync(`${fixtures}/unet/pocket`, join(own, 'model'), { recursive: true });
  const stack = join(own, 'stack.yaml');
  writeFileSync(
    stack,
    'backbone: ./model\nadapters:\n  - use: lora\n    from: ./look.safetensors\n',
  );
  const model = join(own, 'model/unet/diffusion_pytorch_model.safetensors');
  return { folder: own, model, look: join(own, 'look.safetensors'), stack };
}

const [narrow, wide] = ['narrow', 'wide'].map(stackIn);
narrowed(
  `${fixtures}/unet/pocket/unet/diffusion_pytorch_model.safetensors`,
  narrow.model,
  wide.model,
  'e4m3',
);
narrowed(`${fixtures}/compose/pocket/look.safetensors`, narrow.look, wide.look, 'e5m2');

test('a model and a LoRA predict what the same numbers in f32 do', () => {
  const io = openSafetensors(`${fixtures}/compose/pocket/io.lora.safetensors`);
  const inputs = join(folder, 'inputs.safetensors');
  const given = [...io.tensors.keys()].filter((key) => key.startsWith('in.'));
  writeSafetensors(inputs, Object.fromEntries(given.map((key) => [key.slice(3), io.read(key)])));
  const [got, want] = [narrow, wide].map((one) => {
    const out = join(one.folder, 'out.safetensors');
    const { status, stderr } = attune('probe', one.stack, '--inputs', inputs, '--out', out);
    expect([status, stderr]).toEqual([0, expect.not.stringContaining('error')]);
    return openSafetensors(out).read('sample');
  });
  expect(relativeError(got, want)).toBeLessThan(1e-5);
  // Eight bits are not thirty-two.
  expect(relativeError(got, io.read('out.sample'))).toBeGreaterThan(1e-3);
});

const sha256 = (path: string) => createHash('sha256').update(readFileSync(path)).digest('hex');

test('the lock holds their files', () => {
  expect(attune('compose', narrow.stack, '--lock', '--no-proof').status).toBe(0);
  const lock = StackLock.parse(
    JSON.parse(readFileSync(join(narrow.folder, 'stack.lock.json'), 'utf8')),
  );
  expect(lock.adapters.lora.files['look.safetensors'].sha256).toBe(sha256(narrow.look));
  expect(lock.backbone.files['unet/diffusion_pytorch_model.safetensors'].sha256).toBe(
    sha256(narrow.model),
  );
  expect(attune('inspect', narrow.stack, '--verify').status).toBe(0);
});
