/** The conformance kit finds what is wrong with adapters that break one law each. */

import { add, constant, f32, mean, mul, reshape, expand, sub } from '@attune/engine';
import { describe, expect, test } from 'vitest';

import type { Adapter, Tap } from '../src/adapters/adapter.ts';
import { normal, zeros } from '../src/nn/init.ts';
import { judge, subjectOf } from '../src/testing/check.ts';
import { checkAdapter, checkKind, laws, tinyModel } from '../src/testing/index.ts';

const model = tinyModel();

/** A learned bias on the channels of every hidden value: lawful. */
const bias: Tap['delta'] = (value, { scope }) =>
  expand(reshape(scope.param('bias', [value.dim(1)], zeros), [1, -1, 1, 1]), value.shape);

const adapter = (delta: Tap['delta'], rest: Partial<Adapter> = {}): Adapter => ({
  name: 'probe',
  attach: () => [{ at: 'hidden:unet.**', delta }],
  ...rest,
});

describe('a lawful adapter', () => {
  test('is found lawful', async () => {
    const findings = await checkAdapter(() => adapter(bias, { commutes: true }), { model });
    expect(findings.map(({ law }) => law)).toEqual(laws.map(({ name }) => name));
    expect(findings.filter(({ ok }) => !ok)).toEqual([]);
  }, 30_000);
});

let calls = 0;
const mixing: Tap['delta'] = (value, site) => {
  const { B, F } = site.call;
  const clips = reshape(value, [B, F, ...value.shape.slice(1)]);
  const centre = expand(mean(clips, [1], { keep: true }), clips.shape);
  return mul(reshape(sub(centre, clips), value.shape), site.scope.param('weight', [], zeros));
};

const start = (delta: Tap['delta'], rest?: Partial<Adapter>) => () => adapter(delta, rest);

describe('an adapter that breaks a law is found out:', () => {
  test.each<[string, () => Adapter, string, RegExp]>([
    [
      'it acts from the start',
      start((value, { scope }) => mul(value, expand(scope.param('w', [], normal(1)), value.shape))),
      'starts as the identity',
      /changes the result by/,
    ],
    [
      'it mixes frames and does not say so',
      start(mixing),
      'frames are independent',
      /declare mixesFrames/,
    ],
    [
      'it says it mixes frames and does not',
      start(bias, { mixesFrames: true }),
      'frames are independent',
      /no frame depends on another/,
    ],
    [
      'it treats frames by their place',
      start((value, site) => {
        const { B, F } = site.call;
        const place = Array.from({ length: B * F }, (_, row) => row % F);
        const factor = mul(
          constant(f32(place, [B * F, 1, 1, 1])),
          site.scope.param('weight', [], zeros),
        );
        return mul(value, factor);
      }),
      'frames are independent',
      /frames in another order change by/,
    ],
    [
      'it says it commutes and does not',
      start((value, site) => add(bias(value, site), mul(value, site.scope.param('w', [], zeros))), {
        commutes: true,
      }),
      'order',
      /swapping/,
    ],
    [
      'a parameter changes nothing',
      start((value, site) => {
        site.scope.param('idle', [3], zeros);
        return bias(value, site);
      }),
      'the gradient reaches',
      /no output depends on probe\.unet.*idle/,
    ],
    [
      'a gradient stops on its way',
      start((value, site) =>
        add(bias(value, site), mul(mul(site.scope.param('w', [], zeros), 0), value)),
      ),
      'the gradient reaches',
      /no finite gradient reaches probe\.unet/,
    ],
    [
      'a port is read by nothing',
      start(bias, { ports: { hint: { per: 'clip', shape: () => [2] } } }),
      'every port',
      /probe\.hint is read by nothing/,
    ],
    [
      'two traces differ',
      () => adapter((value, site) => mul(bias(value, site), 1 + calls++)),
      'deterministic',
      /other ONNX bytes/,
    ],
    [
      'its parameters lie outside its name',
      start((value, { root }) =>
        expand(reshape(root.trace.param('stray.w', [], zeros), [1, 1, 1, 1]), value.shape),
      ),
      'the base weights',
      /outside its name: stray\.w/,
    ],
    [
      'it acts nowhere',
      () => ({ ...adapter(bias), attach: () => [] }),
      'the change is proportional',
      /acts nowhere/,
    ],
  ])('%s', async (_, make, law, detail) => {
    const broken = laws.find(({ name }) => name.startsWith(law))!;
    const found = await judge(broken, subjectOf(make, { model }));
    expect(found).toEqual({ ok: false, detail: expect.stringMatching(detail) });
  });
});

describe('a kind of adapter', () => {
  test('is found out when it does not heed its stack entry', async () => {
    const options = { safeParse: (data: unknown) => ({ success: true, data }) } as never;
    const findings = await checkKind(
      { options, create: ({ name }) => ({ ...adapter(bias), name }) },
      {},
      { model },
    );
    expect(findings.filter(({ ok }) => !ok)).toEqual([
      {
        law: 'heeds name, strength and train of a stack entry',
        ok: false,
        detail: 'create() drops strength, train',
      },
    ]);
  }, 30_000);
});
