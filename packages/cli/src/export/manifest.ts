/** manifest.json: what another program must know to run what was exported. */

import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

import { ddimPlan, type Model, Sampling, scaleGates } from '@attune/core';

import type { StackSession } from '../stack.ts';
import type { Checked } from './check.ts';
import type { Graph, StoredType } from './graph.ts';
import type { HashedFile, Origin } from './origin.ts';
import type { Sizes, Value } from './part.ts';

const FORMAT = 'attune-export';

/** What every export says of itself. */
interface Common {
  readonly stack: string;
  readonly origins: readonly Origin[];
}

/** A part that was written and checked. */
export interface Exported {
  readonly graph: Graph;
  readonly checked: Checked;
  readonly files: readonly HashedFile[];
}

/** Of an export as ONNX. */
export function onnxManifest(
  { stack, origins }: Common,
  session: StackSession,
  model: Model,
  {
    parts,
    sizes,
    weights,
    liveStrengths,
  }: {
    readonly parts: readonly Exported[];
    readonly sizes: Sizes;
    readonly weights: StoredType;
    readonly liveStrengths: boolean;
  },
): Record<string, unknown> {
  return {
    format: FORMAT,
    version: 1,
    kind: 'onnx',
    stack,
    sizes,
    weights,
    parts: Object.fromEntries(
      parts.map(({ graph, checked: { error, rounding }, files }) => [
        graph.part.name,
        {
          file: graph.file,
          data: graph.data ?? null,
          inputs: graph.inputs.map(described),
          outputs: graph.outputs.map(described),
          error,
          rounding,
          files,
        },
      ]),
    ),
    strengths: {
      live: liveStrengths,
      values: Object.fromEntries(model.adapters.flatMap((adapter) => scaleGates(adapter))),
    },
    schedule: scheduleOf(model, Sampling.parse(session.stack.sampling ?? {})),
    latents: model.latents ?? null,
    tokenizer: tokenizerOf(model),
    origins,
  };
}

/** Of merged adapters. */
export const mergedManifest = (
  { stack, origins }: Common,
  rest: Readonly<Record<string, unknown>>,
): Record<string, unknown> => ({
  format: FORMAT,
  version: 1,
  kind: 'merged',
  stack,
  ...rest,
  origins,
});

/** Whether a folder is an export, and may be replaced by one. */
export function isExport(folder: string): boolean {
  const file = join(folder, 'manifest.json');
  if (!existsSync(file)) return false;
  try {
    const { format } = Object(JSON.parse(readFileSync(file, 'utf8'))) as { format?: unknown };
    return format === FORMAT;
  } catch {
    return false;
  }
}

/** Types as NumPy and ONNX Runtime call them. */
export const typeNames: Readonly<Partial<Record<Value['dtype'], string>>> = {
  f32: 'float32',
  i64: 'int64',
};

const described = ({ name, dtype, shape, about }: Value) => ({
  name,
  dtype: typeNames[dtype] ?? dtype,
  shape,
  about,
});

/**
 * The noise of every training time, and a DDIM run as the stack recommends it: from unit noise x, at each
 * time t in turn x becomes cx · x + cp · prediction.
 */
function scheduleOf({ schedule }: Model, sampling: Sampling) {
  if (!schedule) return null;
  const { steps } = ddimPlan(schedule, sampling.steps);
  return {
    prediction_type: schedule.predictionType,
    alphas_cumprod: Array.from({ length: schedule.length }, (_, t) => schedule.alphaBar(t)),
    sampling: { ...sampling, steps: steps.map(({ t, cx, cp }) => ({ t, cx, cp })) },
    config: schedule.config,
  };
}

function tokenizerOf({ tokenizer, adapters }: Model) {
  if (!tokenizer) return null;
  const words = adapters.flatMap(({ words: own = {} }) => Object.keys(own));
  return {
    folder: 'tokenizer',
    length: tokenizer.maxLength,
    bos: tokenizer.bosId,
    eos: tokenizer.eosId,
    pad: tokenizer.padId,
    /** Words of adapters, each with the ids that it stands for. */
    words: Object.fromEntries(
      words.map((word) => [word, tokenizer.encode(word, { pad: false }).ids.slice(1, -1)]),
    ),
  };
}
