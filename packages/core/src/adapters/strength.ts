/** The strength grammar: which scalar input gates an adapter at an address. */

import { type F32Array, f32, input, type Tensor } from '@attune/engine';

import type { Adapter, Strength } from './adapter.ts';

interface Rule {
  /** `gate.<adapter>` or `gate.<adapter>@<prefix>`: the input's name. */
  readonly name: string;
  readonly prefix: string;
  readonly value: number;
}

/** The rules of a strength, longest prefix first. */
function rules(name: string, strength: Strength = 1): Rule[] {
  if (typeof strength === 'number') return [{ name: `gate.${name}`, prefix: '', value: strength }];
  const { default: value = 1, ...rest } = strength;
  return [
    ...Object.entries(rest)
      .map(([prefix, own]) => ({ name: `gate.${name}@${prefix}`, prefix, value: own }))
      .toSorted((a, b) => b.prefix.length - a.prefix.length),
    { name: `gate.${name}`, prefix: '', value },
  ];
}

/** True when the adapter acts nowhere: it is left out before tracing. */
export const isOff = ({ name, strength }: Adapter): boolean =>
  rules(name, strength).every(({ value }) => value === 0);

/** The strengths of an adapter as feeds of a program. */
export const gateFeeds = ({ name, strength }: Adapter): [string, F32Array][] =>
  rules(name, strength).map((rule) => [rule.name, f32([rule.value], [])]);

/** The gate of an adapter by address, as inputs shared within one trace. */
export function gates({ name, strength }: Adapter): (address: string) => Tensor {
  const inputs = rules(name, strength).map((rule) => ({
    ...rule,
    tensor: input(rule.name, [], { rate: 'clip' }),
  }));
  const last = inputs[inputs.length - 1];
  return (address) =>
    (
      inputs.find(
        ({ prefix }) => prefix && (address === prefix || address.startsWith(`${prefix}.`)),
      ) ?? last
    ).tensor;
}
