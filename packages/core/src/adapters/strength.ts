/**
 * The strength grammar, one for every kind of adapter: a number, and what it is multiplied with over the
 * steps, the frames and the pixels; different ones by address. All values are inputs of a program, so that
 * changing them compiles nothing; another rule or another form does.
 */

import {
  ancestors,
  AttuneError,
  type F32Array,
  f32,
  input,
  isInput,
  mul,
  type Tensor,
} from '@attune/engine';

import type { Site } from '../nn/scope.ts';
import { resizedMask } from './mask.ts';
import { acrossFrames, acrossPixels, pixelsOf } from './place.ts';

/** One strength in full. What is not given does nothing. */
export interface Modulation {
  /** Default 1. */
  readonly scale?: number;
  /**
   * The part of the way from noise (0) to the clean sample (1) on which the adapter acts, as diffusers'
   * `control_guidance_start` and `_end`: at time t of T the way behind is 1 − (t + 1) / T.
   */
  readonly during?: readonly [number, number];
  /** Factors spread evenly over that way, the first at noise, the last at the clean sample; linear between. */
  readonly steps?: readonly number[];
  /**
   * Factors by frame of the clip; the last one holds for all later frames. Means nothing in nets without frames
   * (text encoder, autoencoder).
   */
  readonly frames?: readonly number[];
  /**
   * Factors by pixel, [H, W], or by frame and pixel, [F, H, W], resized to every site by area. Means nothing
   * at sites without pixels (time embedding, keys and values of a text): there the rest applies alone.
   */
  readonly mask?: F32Array;
}

/** One strength: a number, or a number times what it varies over. */
export type StrengthValue = number | Modulation;

/** One strength, or one per address prefix (`{ default: 0.8, 'unet.up_blocks.1': { during: [0, 0.5] } }`). */
export type Strength = StrengthValue | Readonly<Record<string, StrengthValue>>;

/** Whose strength it is. */
interface Gated {
  readonly name: string;
  readonly strength?: Strength;
}

const forms = ['scale', 'during', 'steps', 'frames', 'mask'] as const;

interface Rule extends Modulation {
  /** `gate.<adapter>` or `gate.<adapter>@<prefix>`: the input's name. */
  readonly name: string;
  readonly prefix: string;
  readonly scale: number;
}

/** Told apart by its keys: no address begins with one of them. */
export const isModulation = (strength: object): strength is Modulation =>
  Object.keys(strength).every((key) => (forms as readonly string[]).includes(key));

/** The rules of a strength, longest prefix first. */
function rules(name: string, strength: Strength = 1): Rule[] {
  const rule = (value: StrengthValue, prefix = ''): Rule => {
    const own = prefix ? `gate.${name}@${prefix}` : `gate.${name}`;
    const whole = typeof value === 'number' ? { scale: value } : value;
    return checked({ scale: 1, ...whole, name: own, prefix });
  };
  if (typeof strength === 'number' || isModulation(strength)) return [rule(strength)];
  const { default: value = 1, ...rest } = strength;
  return [
    ...Object.entries(rest)
      .map(([prefix, own]) => rule(own, prefix))
      .toSorted((a, b) => b.prefix.length - a.prefix.length),
    rule(value),
  ];
}

/** Throws BAD_STRENGTH for what is no finite number, an empty list, or a part of the way that is none. */
function checked(rule: Rule): Rule {
  const { name, scale, during, steps, frames, mask } = rule;
  const bad = (what: string): AttuneError =>
    new AttuneError('BAD_STRENGTH', `The strength ${name.slice('gate.'.length)}: ${what}.`, {
      name,
    });
  if (!Number.isFinite(scale)) throw bad(`${scale} is no finite number`);
  for (const [key, list] of Object.entries({ steps, frames })) {
    if (list?.length === 0) throw bad(`${key} is empty`);
    if (list?.some((value) => !Number.isFinite(value)))
      throw bad(`${key} holds what is no finite number`);
  }
  if (during && !(during[0] >= 0 && during[0] < during[1] && during[1] <= 1))
    throw bad(`during [${during.join(', ')}] is no part of the way from 0 to 1`);
  if (mask && ![2, 3].includes(mask.shape.length))
    throw bad(`a mask of shape [${mask.shape}]; give [H, W] or [F, H, W]`);
  if (mask?.data.some((value) => !Number.isFinite(value)))
    throw bad('the mask holds what is no finite number');
  return rule;
}

/** The inputs that carry the scales of an adapter's strengths, and their values. */
export const scaleGates = ({ name, strength }: Gated): [string, number][] =>
  rules(name, strength).map((rule) => [rule.name, rule.scale]);

/** The strength at an address where it is one number, the same everywhere and always; else undefined. */
export function numberAt(strength: Strength | undefined, address: string): number | undefined {
  const { scale, during, steps, frames, mask } = ruleAt(rules('', strength), address);
  return during || steps || frames || mask ? undefined : scale;
}

/** Whether an adapter has other strengths at some addresses. */
export const hasAddresses = ({ name, strength }: Gated): boolean =>
  rules(name, strength).some(({ prefix }) => prefix !== '');

/** Of the addresses that a strength names, those that stand for none of the places where the adapter acts. */
export const idleAddresses = (gated: Gated, acts: readonly string[]): string[] =>
  rules(gated.name, gated.strength)
    .map(({ prefix }) => prefix)
    .filter((prefix) => !acts.some((address) => covers(prefix, address)));

/** What of a strength is more than a number. */
type Part = 'mask' | 'frames' | 'steps';

/** What a strength has at an address beside its number, and whether it means something there, by the gate of a trace. */
export function partsAt(
  { name, strength }: Gated,
  address: string,
  gate: Tensor | undefined,
): (readonly [part: Part, means: boolean])[] {
  const rule = ruleAt(rules(name, strength), address);
  const fed = inputsOf(gate);
  const parts: readonly (readonly [Part, boolean, boolean])[] = [
    ['mask', rule.mask !== undefined, fed.some((own) => own.startsWith(`${rule.name}.mask.`))],
    ['frames', rule.frames !== undefined, fed.includes(`${rule.name}.frames`)],
    ['steps', varies(rule), fed.includes(rule.name)],
  ];
  return parts.flatMap(([part, has, means]) => (has ? [[part, means] as const] : []));
}

/** Names of the inputs that a gate is made of. */
function inputsOf(gate: Tensor | undefined): string[] {
  if (!gate) return [];
  return ancestors([gate])
    .filter(isInput)
    .map(({ attrs }) => attrs.name);
}

const ruleAt = <R extends Rule>(all: readonly R[], address: string): R =>
  all.find(({ prefix }) => covers(prefix, address))!;

const covers = (prefix: string, address: string): boolean =>
  prefix === '' || address === prefix || address.startsWith(`${prefix}.`);

const varies = ({ during, steps }: Rule): boolean => during !== undefined || steps !== undefined;

/** True when the adapter acts nowhere: it is left out before tracing. */
export const isOff = ({ name, strength }: Gated): boolean =>
  rules(name, strength).every(
    ({ scale, steps, frames, mask }) =>
      scale === 0 ||
      [steps, frames, mask?.data].some((list) => list?.every((value) => value === 0)),
  );

/** The gate of an adapter at a site, from inputs shared within one trace. */
export function gates({ name, strength }: Gated): (value: Tensor, site: Site) => Tensor {
  const all = rules(name, strength).map((rule) => ({
    ...rule,
    tensor: input(rule.name, [], { rate: varies(rule) ? 'step' : 'clip' }),
  }));
  const inputs = new Map<string, Tensor>();
  const shared = (key: string, shape: readonly number[]): Tensor => {
    let tensor = inputs.get(key);
    if (!tensor) inputs.set(key, (tensor = input(key, shape, { rate: 'clip' })));
    return tensor;
  };
  return (value, site) => {
    const { address, call } = site;
    const rule = ruleAt(all, address);
    // Where there are no times, nothing changes over them, and rows are not those of a clip.
    const framed = 'timestep' in call.inputs;
    const timed = framed || !varies(rule);
    const factors = [timed ? rule.tensor : shared(`${rule.name}.scale`, [])];
    if (rule.frames && framed) {
      const frames = acrossFrames(value, site, () => shared(`${rule.name}.frames`, [call.F]));
      if (frames) factors.push(frames);
    }
    const place = rule.mask && pixelsOf(value, site);
    if (rule.mask && place) {
      const rows = rule.mask.shape.length === 3 ? call.F : 1;
      const { h, w } = place;
      const mask = shared(`${rule.name}.mask.${h}x${w}`, [rows, h, w]);
      factors.push(acrossPixels(mask, value, site, place));
    }
    return factors.reduce((a, b) => mul(a, b));
  };
}

type Inputs = ReadonlyMap<string, Tensor>;

/** The strengths of an adapter that hold for a whole clip whose first frame is number `frame`. */
export function clipGates(
  { name, strength }: Gated,
  inputs: Inputs,
  frame = 0,
): [string, F32Array][] {
  return rules(name, strength).flatMap((rule) => {
    const found: [string, F32Array][] = [];
    const { scale, frames, mask } = rule;
    const whole = varies(rule) ? `${rule.name}.scale` : rule.name;
    if (inputs.has(whole)) found.push([whole, f32([scale], [])]);
    const list = inputs.get(`${rule.name}.frames`);
    if (list && frames) {
      const factors = Array.from(
        { length: list.size },
        (_, i) => frames[Math.min(frame + i, frames.length - 1)],
      );
      found.push([`${rule.name}.frames`, f32(factors, list.shape)]);
    }
    if (!mask) return found;
    for (const [key, { shape }] of inputs)
      if (key.startsWith(`${rule.name}.mask.`)) found.push([key, resizedMask(mask, shape, frame)]);
    return found;
  });
}

/** The strengths of an adapter that change over the steps, at time t of a schedule's `length`. */
export function stepGates(
  { name, strength }: Gated,
  inputs: Inputs,
  length: number,
  t: number,
): [string, F32Array][] {
  const way = Math.min(1, Math.max(0, 1 - (t + 1) / length));
  return rules(name, strength)
    .filter((rule) => varies(rule) && inputs.has(rule.name))
    .map((rule) => [rule.name, f32([rule.scale * onTheWay(rule, way)], [])]);
}

function onTheWay({ during: [from, to] = [0, 1], steps = [1] }: Modulation, way: number): number {
  // The last time of a schedule of T has 1 − 1/T behind it: `to` = 1 includes it.
  if (way < from || (way >= to && to < 1)) return 0;
  const at = way * (steps.length - 1);
  const low = Math.floor(at);
  const high = Math.min(low + 1, steps.length - 1);
  return steps[low] + (at - low) * (steps[high] - steps[low]);
}
