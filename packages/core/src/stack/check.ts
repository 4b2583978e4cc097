/** Conflicts of a stack, found from headers, configs and declarations before any weight is read. */

import { AttuneError, sameShape } from '@attune/engine';

import { inventory } from '../adapters/compose.ts';
import { routeProblems } from '../adapters/routes.ts';
import { baseFamily } from '../models/families.ts';
import { type Dims, nominalDims } from '../models/net.ts';
import { skippedText } from '../plugins/partial.ts';
import { NoiseSchedule, type ScheduleConfig, trainingPart } from '../schedule/noise.ts';
import type { StackPart, StackParts } from './open.ts';
import { checkPlaces } from './places.ts';

/** What is wrong with a stack, in words for people. */
export interface Finding {
  /** An error keeps a stack from being opened. */
  readonly level: 'error' | 'warning';
  readonly topic:
    | 'prediction'
    | 'schedule'
    | 'base'
    | 'port'
    | 'route'
    | 'frames'
    | 'order'
    | 'strength'
    | 'partial';
  /** What is wrong, with the adapter's name. */
  readonly text: string;
  /** What to change. */
  readonly fix: string;
}

/** A finding as one sentence: what is wrong, then what to change. */
export const findingText = ({ text, fix }: Finding): string => `${text}; ${fix}.`;

/** What a stack is to be used for. */
export interface Asked {
  /** Frames at once. */
  readonly frames?: number;
}

/** What can be told without tracing: noise, prediction, family of models, ports, frames. */
export function checkParts(stack: StackParts, { frames }: Asked = {}): Finding[] {
  return [
    ...ownPrediction(stack),
    ...routed(stack),
    ...stack.parts.flatMap((part) => [
      ...training(part, stack),
      ...base(part, stack),
      ...ports(part, stack),
      ...tooManyFrames(part, frames),
      ...partial(part),
    ]),
  ];
}

/** What a file that need not fit as a whole was used without. */
function partial({ adapter, skipped }: StackPart): Finding[] {
  const text = skipped && skippedText(skipped);
  if (text === undefined) return [];
  const fix = 'take a whole file that was made for this model, if that is not what you want';
  return [{ level: 'warning', topic: 'partial', text: `${adapter.name} ${text}`, fix }];
}

/** The same, and what a trace of all nets shows: shapes that do not fit, places where order counts. */
export function checkStack(stack: StackParts, asked: Asked = {}): Finding[] {
  const findings = checkParts(stack, asked);
  // A trace of a stack that is wrong would stop at what was found already.
  if (findings.some(({ level }) => level === 'error')) return findings;
  const odd = shapes(stack);
  if (odd.length) return [...findings, ...odd];
  return [...findings, ...checkPlaces(stack)];
}

/** A schedule of the stack file that means another prediction than the backbone's own. */
function ownPrediction({ backbone, model }: StackParts): Finding[] {
  const [own, used] = [backbone.schedule?.predictionType, model.schedule?.predictionType];
  if (own === undefined || own === used) return [];
  return [
    {
      level: 'warning',
      topic: 'prediction',
      text: `the stack's schedule takes the backbone's output as ${used}, its own schedule says ${own}`,
      fix: `add prediction_type: ${own} to the stack's schedule, unless its own is wrong`,
    },
  ];
}

const ways: Readonly<Record<ScheduleConfig['prediction_type'], string>> = {
  epsilon: 'the noise (epsilon)',
  v_prediction: 'the velocity (v_prediction)',
  sample: 'the clean sample (sample)',
};

/** Angles between clean and noise that differ by less are one schedule. */
const SAME_ANGLE = 1e-3;

function training(
  { entry, adapter: { name }, declared }: StackPart,
  { model }: StackParts,
): Finding[] {
  const { trainedWith, assumed } = declared;
  const { schedule } = model;
  if (!trainedWith || !schedule) return [];
  const own = trainedWith.prediction_type ?? schedule.predictionType;
  if (own !== schedule.predictionType)
    return [
      {
        // What is trained again learns the other prediction.
        level: assumed || entry.train ? 'warning' : 'error',
        topic: 'prediction',
        text: `${name} was ${assumed ? 'most likely ' : ''}trained to change a prediction of ${ways[own]}, the backbone predicts ${ways[schedule.predictionType]}`,
        fix: `take a backbone that predicts ${ways[own]}, or say trained_with: { prediction_type: ${schedule.predictionType} } in the entry of ${name} if that is wrong`,
      },
    ];
  // The prediction is the same: v avoids what only an ε-model cannot be.
  const here = schedule.with({ prediction_type: 'v_prediction' });
  const there = NoiseSchedule.of(
    { ...here.config, trained_betas: null, ...trainedWith, prediction_type: 'v_prediction' },
    `${name}: trained_with`,
  );
  if (farthest(there, here) < SAME_ANGLE) return [];
  const t = Math.floor(there.length / 2) - 1;
  return [
    {
      level: 'warning',
      topic: 'schedule',
      text: `${name} was trained with ${described(there)}, the stack samples with ${described(here)}: the noise of t = ${t} there is that of t = ${there.snrEqual(t, here)} here`,
      fix: `align the stack, or sample as ${name} was trained: schedule: ${JSON.stringify({ ...trainingPart(there.config), prediction_type: own })}`,
    },
  ];
}

/** The largest difference of the angles at equal times; any, where the numbers of times differ. */
function farthest(a: NoiseSchedule, b: NoiseSchedule): number {
  if (a.length !== b.length) return Infinity;
  return Math.max(...Array.from({ length: a.length }, (_, t) => Math.abs(a.phi(t) - b.phi(t))));
}

function described({ config, length }: NoiseSchedule): string {
  const {
    beta_schedule: kind,
    beta_start: from,
    beta_end: to,
    rescale_betas_zero_snr: zero,
  } = config;
  const range = kind === 'squaredcos_cap_v2' ? '' : ` ${from}–${to}`;
  const what = config.trained_betas ? 'β of its own' : `${kind} β${range}`;
  return `${what}${length === 1000 ? '' : ` over ${length} times`}${zero ? ' at zero terminal SNR' : ''}`;
}

/** An adapter of another family of models: wrong where its shapes do not fit, else doubtful. */
function base({ adapter: { name }, detection }: StackPart, stack: StackParts): Finding[] {
  const [own, other] = [detection?.base, baseFamily(stack.backbone.weights)];
  if (own === undefined || other === undefined || own === other) return [];
  return [
    {
      level: shapes(stack).length ? 'error' : 'warning',
      topic: 'base',
      text: `${name} was made for ${own}, the backbone is ${other}`,
      fix: `take a file for ${other}, or the backbone it was trained on`,
    },
  ];
}

/** Routes that lead nowhere, or from what there is not. */
function routed({ backbone, parts, routes }: StackParts): Finding[] {
  const adapters = parts.map(({ adapter }) => adapter);
  return routeProblems(backbone.nets, adapters, routes).map(({ text, fix }) => ({
    level: 'error',
    topic: 'route',
    text,
    fix,
  }));
}

function ports({ adapter }: StackPart, { model, routes }: StackParts): Finding[] {
  const inputs = model.nets.unet?.signature(nominalDims) ?? {};
  return Object.entries(adapter.ports ?? {}).flatMap(([port, spec]): Finding[] => {
    const full = `${adapter.name}.${port}`;
    if (spec.defaultTo === undefined)
      return spec.source !== undefined || full in routes
        ? []
        : [
            {
              level: 'warning',
              topic: 'port',
              text: `${full} must be fed, and nothing is routed to it`,
              fix: spec.takes
                ? `add it to the stack's routes (routes: { ${full}: … })`
                : 'feed it yourself (attune probe, or sample() of @attune/core)',
            },
          ];
    const source = inputs[spec.defaultTo];
    if (!source)
      return [
        {
          level: 'error',
          topic: 'port',
          text: `${full} takes ${spec.defaultTo} by default, an input that the backbone lacks (it has ${Object.keys(inputs).join(', ')})`,
          fix: 'take a backbone that has it',
        },
      ];
    const [want, got] = [spec.shape(nominalDims), source.shape.slice(1)];
    if (sameShape(want, got)) return [];
    return [
      {
        level: 'error',
        topic: 'port',
        text: `${full} takes rows of ${sizes(want, nominalDims)}, the backbone's ${spec.defaultTo} has ${sizes(got, nominalDims)}`,
        fix: 'take a file for this backbone, or the backbone it was trained on',
      },
    ];
  });
}

/** A shape with the number of tokens by its letter, since only the rest is fixed. */
const sizes = (shape: readonly number[], { L }: Dims): string =>
  `[${shape.map((size, i) => (i === 0 && size === L ? 'L' : size)).join(', ')}]`;

function tooManyFrames({ adapter: { name, maxFrames } }: StackPart, asked?: number): Finding[] {
  if (asked === undefined || maxFrames === undefined || asked <= maxFrames) return [];
  return [
    {
      level: 'error',
      topic: 'frames',
      text: `${name} sees at most ${maxFrames} frames at once, ${asked} were asked for`,
      fix: `make ${maxFrames}, or edit a longer clip in windows (--window ${maxFrames})`,
    },
  ];
}

/** Weights of other shapes than the model's layers ask for, by adapter. */
function shapes({ model, parts, backbone }: StackParts): Finding[] {
  let wanted;
  try {
    wanted = inventory(model, nominalDims).params;
  } catch (error) {
    if (!AttuneError.is(error)) throw error;
    return [
      {
        level: 'error',
        topic: 'base',
        text: `the stack does not fit together: ${error.message.replace(/\.$/, '')}`,
        fix: 'take files that were made for this backbone',
      },
    ];
  }
  return parts.flatMap(({ adapter: { name, weights }, detection }): Finding[] => {
    const odd = [...(weights?.names() ?? [])].filter((key) => {
      const want = wanted.get(`${name}.${key}`);
      return want && !sameShape(want.shape, weights!.entry(key).shape);
    });
    if (odd.length === 0) return [];
    const [first] = odd;
    const made = detection?.base ? ` (made for ${detection.base})` : '';
    return [
      {
        level: 'error',
        topic: 'base',
        text: `${odd.length} weights of ${name}${made} have other shapes than this backbone asks for${familyOf(backbone)}, first ${first} [${weights!.entry(first).shape}] for [${wanted.get(`${name}.${first}`)!.shape}]`,
        fix: 'take a file for this backbone, or the backbone it was trained on',
      },
    ];
  });
}

function familyOf({ weights }: StackParts['backbone']): string {
  const family = baseFamily(weights);
  return family === undefined ? '' : ` (${family})`;
}
