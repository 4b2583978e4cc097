/** Files of IP-Adapter: known by their names, written as they came, refused with a reason. */

import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import {
  exportTrained,
  inventory,
  nominalDims,
  readAdapterFile,
  surveyAdapter,
  trainability,
} from '@attune/core';
import { type NDArray, Rng, toF32, Weights, writeSafetensors } from '@attune/engine';
import { beforeAll, describe, expect, test } from 'vitest';

import { type Entry, files, ip, loader, open, others } from './ip-adapter.ts';

const own = (file: string) => readAdapterFile(`${files}/${file}`);

describe('files', () => {
  let scratch = '';
  beforeAll(() => {
    scratch = mkdtempSync(join(tmpdir(), 'ip-adapter-'));
  });
  /** The base file with some names or values changed. */
  function changed(name: string, change: (all: Record<string, NDArray>) => void): string {
    const { weights } = own('base.safetensors');
    const all = Object.fromEntries(
      [...weights.names()].map((key) => [key, weights.entry(key).load()]),
    );
    change(all);
    const path = join(scratch, name);
    writeSafetensors(path, all);
    return path;
  }

  test('are known for what they are, by their names', async () => {
    const kind = await loader.get('adapters', 'ip-adapter');
    const found = ['base.safetensors', 'base.bin', 'plus.safetensors', 'full.safetensors'].map(
      (file) => kind.detect!(own(file)),
    );
    expect(found.map((one) => one?.algorithm)).toEqual([
      'ip-adapter base',
      'ip-adapter base',
      'ip-adapter plus',
      'ip-adapter full',
    ]);
    expect(kind.detect!(readAdapterFile(`${others}/look.safetensors`))).toBeUndefined();
    const model = await open();
    const survey = surveyAdapter(kind, own('plus.safetensors'), model);
    expect(survey.refusal).toBeUndefined();
    expect(survey.modules.every(({ fit }) => fit === 'matched')).toBe(true);
  });

  test.each<readonly [string, Entry]>([
    ['from features', {}],
    ['from a picture', { image_encoder: `${files}/image_encoder` }],
  ])('a trained one is written in the layout it came in: %s', async (_, options) => {
    const model = await open({ ...ip, ...options, from: `${files}/base.bin` });
    const { params } = inventory(model, nominalDims);
    const trains = trainability(model);
    const names = [...params.keys()].filter((name) => name.startsWith('ip.'));
    expect(names.filter((name) => !trains(name))).toEqual(
      names.filter((name) => name.startsWith('ip.image_encoder.')),
    );
    const moved = (name: string): Float32Array =>
      toF32(model.weights.entry(name).load()).data.map((value) => value * 1.5);
    const trained = Object.fromEntries(names.filter(trains).map((name) => [name, moved(name)]));
    exportTrained(model, trained, scratch, { metadata: {} });
    const again = Weights.fromFile(join(scratch, 'ip.safetensors'));
    const want = own('base.safetensors').weights;
    const written = [...again.names()].filter((name) => !name.startsWith('image_encoder.'));
    expect(written.toSorted()).toEqual([...want.names()].toSorted());
    for (const name of want.names())
      expect(again.entry(name).load().data).toEqual(
        toF32(want.entry(name).load()).data.map((value) => value * 1.5),
      );
    const reopened = await open({ ...ip, ...options, from: join(scratch, 'ip.safetensors') });
    for (const name of names)
      expect(reopened.weights.entry(name).load().data).toEqual(
        trains(name) ? moved(name) : model.weights.entry(name).load().data,
      );
  });

  test.each<readonly [string, () => Entry, RegExp]>([
    [
      'with a pair too few',
      () => ({
        from: changed('few.safetensors', (all) => {
          delete all['ip_adapter.13.to_k_ip.weight'];
          delete all['ip_adapter.13.to_v_ip.weight'];
        }),
      }),
      /few\.safetensors has keys and values for 6 cross-attentions; the model has 7/,
    ],
    [
      'with half of a pair',
      () => ({
        from: changed('half.safetensors', (all) => delete all['ip_adapter.13.to_v_ip.weight']),
      }),
      /lack.*mid_block.*to_v_ip/,
    ],
    [
      'with a tensor that nothing asks for',
      () => ({
        from: changed(
          'more.safetensors',
          (all) => (all['image_proj.extra.weight'] = Rng.of(1).normals([2])),
        ),
      }),
      /asked for by no layer, first ip\.image_proj\.extra\.weight/,
    ],
    [
      'of FaceID',
      () => ({
        from: changed('face.safetensors', (all) => {
          all['image_proj.proj.0.weight'] = all['image_proj.proj.weight'];
          delete all['image_proj.proj.weight'];
        }),
      }),
      /face\.safetensors is a FaceID adapter/,
    ],
    [
      'whose shapes contradict one another',
      () => ({
        from: changed('odd.safetensors', (all) => {
          all['image_proj.norm.weight'] = Rng.of(1).normals([7]);
        }),
      }),
      /odd\.safetensors: the shapes of image_proj make 13\.7\d* tokens/,
    ],
    [
      'with the encoder of another',
      () => {
        const folder = mkdtempSync(join(scratch, 'encoder-'));
        writeFileSync(join(folder, 'config.json'), JSON.stringify({ projection_dim: 11 }));
        writeSafetensors(join(folder, 'model.safetensors'), {});
        return { from: `${files}/base.safetensors`, image_encoder: folder };
      },
      /gives features of width 11; the adapter reads 10/,
    ],
    [
      'without the encoder that is named',
      () => ({ from: `${files}/base.safetensors`, image_encoder: 'elsewhere' }),
      /elsewhere\/config\.json cannot be opened/,
    ],
    [
      'with an option that is none',
      () => ({ from: `${files}/base.safetensors`, token: 3 }),
      /did you mean "tokens"/,
    ],
  ])('%s is refused', async (_, entry, message) => {
    await expect(open({ ...ip, ...entry() })).rejects.toThrow(message);
  });
});
