/** JSON whose keys have an order of their own, where JavaScript would put those that count first. */

import { expect, test } from 'vitest';

import { badFile } from '../../src/errors.ts';
import { keysInOrder, parseJson } from '../../src/weights/json.ts';

const parsed = (text: string, lenient = false): unknown =>
  parseJson(text, (what) => badFile('a.json', what), { lenient, ordered: true });
const keys = (text: string) => keysInOrder(parsed(text) as object);

test.each([
  ['{"b":1,"10":2,"2":3,"a":4}', ['b', '10', '2', 'a']],
  ['{"b":1,"a":{"1":0}}', ['b', 'a']],
  ['{"007":1,"1.5":2,"0":3,"-1":4}', ['007', '1.5', '0', '-1']],
  ['{"b":"\\"7\\":","7" : 1}', ['b', '7']],
  ['{"__proto__":1,"3":2}', ['__proto__', '3']],
])('%s', (text, order) => {
  expect(keys(text)).toEqual(order);
  // What is said is what JSON.parse says.
  expect(parsed(text)).toEqual(JSON.parse(text));
});

test('of an object inside, and of each of two', () => {
  const text = '[{"x":{"z":1,"5":[{"k":1,"4":2}]}},{"9":1,"8":2}]';
  const [one, two] = parsed(text) as [{ x: Record<string, object[]> }, object];
  expect([keysInOrder(one.x), keysInOrder(one.x['5'][0]), keysInOrder(two)]).toEqual([
    ['z', '5'],
    ['k', '4'],
    ['9', '8'],
  ]);
});

test('a key that has the sign already stays what it is', () => {
  const text = '{"\\u00007":1,"7":2}';
  expect(parsed(text)).toEqual({ '\u00007': 1, '7': 2 });
});

test('an error tells the place in the text itself', () => {
  expect(() => parsed('{"1":1,"2":2,"3":x}')).toThrow(/"3":x|position 17/);
  expect(parsed('{"b":Infinity,"1":NaN}', true)).toEqual({ b: Infinity, 1: NaN });
});
