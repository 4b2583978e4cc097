import { f32, input, mul, sub, type Tensor } from '@attune/engine';
import { evaluate } from '@attune/engine/testing';
import { describe, expect, test } from 'vitest';

import { matcher } from '../src/nn/address.ts';
import { zeros } from '../src/nn/init.ts';
import { type BoundTap, makeCall, Scope, type Site, Trace } from '../src/nn/scope.ts';

const rows = { B: 2, F: 3 };

const tap = (
  adapter: string,
  at: string,
  delta: BoundTap['delta'],
  gate: BoundTap['gate'] = () => undefined,
): BoundTap => ({ adapter, at: matcher(at), delta, gate });

/** What `x` [6, 1] of ones becomes at the site hidden:unet.a under some taps. */
function visit(...taps: readonly BoundTap[]) {
  const x = input('x', [6, 1]);
  const trace = new Trace({ taps });
  const scope = new Scope(trace, '', makeCall(rows, { x })).at('unet', 'a');
  return { y: scope.site('hidden', x), trace, scope };
}

const ones = f32(
  Array.from({ length: 6 }, () => 1),
  [6, 1],
);
const firstOf = async (y: Tensor, feeds = {}) => {
  const found = await evaluate({ y }, { x: ones, ...feeds });
  return (found.y.data as Float32Array)[0];
};

describe('taps', () => {
  test('act in array order, each on what the one before left', async () => {
    const double = tap('double', 'hidden:unet.*', (value) => value);
    const ten = tap('ten', 'hidden:unet.*', (value) => mul(value, 10));
    const three = tap('three', 'hidden:unet.*', (value) => sub(3, value));
    expect(await firstOf(visit(double, ten).y)).toBe(22);
    expect(await firstOf(visit(double, three).y)).toBe(3);
    expect(await firstOf(visit(three, double).y)).toBe(6);
  });

  test('are gated by address', async () => {
    const gate = input('gate', []);
    const gated = tap(
      'a',
      'hidden:unet.a',
      (value) => value,
      (_, { address }) => (address === 'unet.a' ? gate : undefined),
    );
    const { y } = visit(gated);
    expect(await firstOf(y, { gate: f32([0.25], []) })).toBe(1.25);
  });

  test('are told where they are', () => {
    let site: Site | undefined;
    const { trace } = visit(
      tap('look', 'hidden:unet.a', (value, at) => {
        site = at;
        return value;
      }),
    );
    expect(site).toMatchObject({ kind: 'hidden', address: 'unet.a', index: 0 });
    expect([site?.scope.path, site?.root.path]).toEqual(['look.unet.a', 'look']);
    expect([...trace.acted.values()]).toEqual([['hidden:unet.a']]);
    expect([...trace.sites.keys()]).toEqual(['hidden:unet.a']);
  });

  test('do not act at another kind of the same address', () => {
    const { trace } = visit(tap('look', 'unet.a', (value) => value));
    expect(trace.acted.size).toBe(0);
  });

  test('may return fewer rows than the value, or more', () => {
    const perClip = tap('a', 'hidden:unet.a', () => input('d', [2, 1]));
    expect(visit(perClip).y.shape).toEqual([6, 1]);
    const trace = new Trace({ taps: [tap('a', 'hidden:unet.b', () => input('d', [6, 1]))] });
    const scope = new Scope(trace, 'unet.b', makeCall(rows, {}));
    expect(scope.site('hidden', input('clip', [2, 1])).shape).toEqual([6, 1]);
  });

  test('of another shape are an error that names adapter, address and both shapes', () => {
    const wide = tap('wide', 'hidden:unet.a', () => input('d', [6, 2]));
    expect(() => visit(wide)).toThrow(
      'The adapter wide returned a delta [6,2] for the value [6,1] at hidden:unet.a',
    );
  });

  test("on an adapter's own address are a cycle", () => {
    const trace = new Trace({ taps: [tap('edit', 'hidden:edit.**', (value) => value)] });
    const scope = new Scope(trace, 'edit.mid_block', makeCall(rows, {}));
    expect(() => scope.site('hidden', input('x', [6, 1]))).toThrow(
      'The adapter edit taps its own address edit.mid_block (hidden:edit.**).',
    );
  });
});

describe('a call', () => {
  test('makes a private net once', () => {
    const call = makeCall(rows, {});
    let made = 0;
    const net = () => call.once('edit', () => ++made);
    expect([net(), net()]).toEqual([1, 1]);
  });

  test('names the way round when a private net needs itself', () => {
    const call = makeCall(rows, {});
    const a = (): number => call.once('a', () => b());
    const b = (): number => call.once('b', () => a());
    expect(a).toThrow('a → b → a: a private net needs itself.');
  });
});

describe('parameters', () => {
  test('are shared by name, and one name has one shape', () => {
    const scope = new Scope(new Trace(), 'unet', makeCall(rows, {}));
    const w = scope.param('w', [2, 3], zeros);
    expect(scope.param('w', [2, 3], zeros)).toBe(w);
    expect(() => scope.param('w', [3, 2], zeros)).toThrow(
      'The parameter unet.w was asked for as [2,3] and as [3,2].',
    );
  });
});
