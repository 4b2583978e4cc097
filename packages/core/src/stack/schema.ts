/** The stack file: a backbone, its schedule, and the adapters stacked on it, in order. */

import { AttuneError, nearest } from '@attune/engine';
import { parseDocument, stringify } from 'yaml';
import { z } from 'zod';

/** Noise and prediction type, as keys of a scheduler config. */
const TrainedWith = z.looseObject({});

/** A strength in full: see `Modulation`; a mask is a file. */
const ModulationEntry = z.strictObject({
  scale: z.number().optional(),
  during: z.tuple([z.number(), z.number()]).optional(),
  steps: z.array(z.number()).min(1).optional(),
  frames: z.array(z.number()).min(1).optional(),
  /** A picture whose brightness it is, or a .safetensors file with `mask` [H, W] or [F, H, W]. */
  mask: z.string().optional(),
});
/** One strength of a stack file: a number or a modulation. */
export const StrengthValueEntry = z.union([z.number(), ModulationEntry], {
  error: 'is a number or { scale, during: [0, 1], steps: […], frames: […], mask: file }',
});
export type StrengthValueEntry = z.infer<typeof StrengthValueEntry>;

/** A number, a modulation, or one of both per address prefix. */
export const StrengthEntry = z.union(
  [StrengthValueEntry, z.record(z.string(), StrengthValueEntry)],
  {
    error:
      'is a number, { scale, during: [0, 1], steps: […], frames: […], mask: file }, or one of these per address ({ default: 1, unet.up_blocks: 0.5 })',
  },
);
export type StrengthEntry = z.infer<typeof StrengthEntry>;

/** What an input or a port is fed: see `Route`; a picture is a file. */
export const RouteEntry = z.union(
  [
    z.string(),
    z.int().nonnegative(),
    z.strictObject({ text: z.string() }),
    z.strictObject({ image: z.string() }),
  ],
  { error: 'is the name of a source, the number of a label, { text: words } or { image: file }' },
);
export type RouteEntry = z.infer<typeof RouteEntry>;

const Train = z.union([z.literal(true), z.array(z.string())]);

/** One adapter of a stack. Keys beside these are options of its kind. */
export const StackEntry = z.looseObject({
  /** Unique in the stack; default: `use`. */
  name: z.string().optional(),
  /** A built-in id (`lora`) or `scope/name`. */
  use: z.string(),
  /** A file or folder, relative to the stack file, or `hf:owner/name[@revision][:file]`, pulled before. */
  from: z.string().optional(),
  strength: StrengthEntry.optional(),
  train: Train.optional(),
  /** False: not for single frames (pictures, the first frame of a clip), as one aligned for clips. */
  stills: z.boolean().optional(),
  /** Use what of its file fits, and say what does not, instead of refusing the file. */
  allow_partial: z.boolean().optional(),
  /** What it was trained with, where its file does not say or is wrong: keys of a scheduler config. */
  trained_with: TrainedWith.optional(),
  /** The terms its weights come under, an SPDX identifier, where its file does not say. */
  license: z.string().optional(),
});
/** A checked entry: the keys above, and the options of its kind as they stand. */
export type StackEntry = z.infer<typeof StackEntry>;

/** The name of an entry's adapter: its own, or that of its kind. */
export const entryName = ({ name, use }: Pick<StackEntry, 'name' | 'use'>): string =>
  name ?? use.slice(use.indexOf('/') + 1);

/** A sampler by its id, alone or with its options beside. */
const SamplerEntry = z.union([z.string(), z.looseObject({ use: z.string() })]);

/** How a stack is best run; a command's own options go first. Scales: uncond + s · (cond − uncond), 1 is none. */
export const Sampling = z.strictObject({
  /** `ddim`, `euler`, `dpmpp-2m`, `lcm` or a plugin's. */
  sampler: SamplerEntry.default('ddim'),
  steps: z.int().positive().default(20),
  /** Of the words. */
  guidance: z.number().default(2),
  /** Of the source image. */
  image_guidance: z.number().default(1),
});
/** Sampling with all defaults filled in. */
export type Sampling = z.infer<typeof Sampling>;

/** A stack file, parsed. Unknown keys are errors; those of an adapter's entry are checked by its kind. */
export const StackFile = z.strictObject({
  /** A model folder or a single-file checkpoint, relative to the stack file or `hf:…`, or a bundled model's id. */
  backbone: z.string(),
  /** For a single-file checkpoint: the model folder whose configs, scheduler and tokenizer it takes. */
  config: z.string().optional(),
  /**
   * `ema`: of a single-file checkpoint that holds both, the moving average of its UNet. Default: the UNet as it
   * was trained last, as in diffusers.
   */
  weights: z.literal('ema').optional(),
  /** The terms the backbone comes under, an SPDX identifier, where its folder does not say. */
  license: z.string().optional(),
  /**
   * `default` is the backbone's own; else a scheduler config to use instead or, where it says nothing of β
   * (`{ prediction_type: epsilon }`), keys that go over the backbone's own.
   */
  schedule: z.union([z.literal('default'), z.looseObject({})]).default('default'),
  adapters: z.array(StackEntry).default([]),
  /** What inputs (`encoder_hidden_states`) and ports (`edit.image`) are fed, where it is not the usual. */
  routes: z.record(z.string(), RouteEntry).optional(),
  sampling: Sampling.optional(),
  /** Paths of plugins that are not installed. */
  plugins: z.array(z.string()).default([]),
  /** Which of the backbone's own parameters train (patterns over names). */
  train: z.array(z.string()).optional(),
});
/** A checked stack file with its defaults filled in. */
export type StackFile = z.infer<typeof StackFile>;

/** A stack as the text of its file, without what is the default. */
export function stackText({ schedule, adapters, plugins, ...rest }: StackFile): string {
  return stringify({
    ...rest,
    ...(schedule === 'default' ? {} : { schedule }),
    ...(adapters.length ? { adapters } : {}),
    ...(plugins.length ? { plugins } : {}),
  });
}

/** Parses YAML against a schema. Errors name the file, the place and, for an unknown key, the nearest one. */
export function parseYaml<T>(schema: z.ZodType<T>, text: string, where: string): T {
  const fail = (what: string) => new AttuneError('BAD_YAML', `${where}: ${what}`, { where });
  if (text.length > LONGEST)
    throw fail(`it has ${text.length} characters; at most ${LONGEST} are read.`);
  let value: unknown;
  try {
    const document = parseDocument(text, { prettyErrors: true });
    const [broken] = document.errors;
    if (broken) throw fail(broken.message);
    value = document.toJS();
    // Values nested without end, by brackets or by an alias inside its own anchor, end here.
    JSON.stringify(value);
  } catch (error) {
    if (AttuneError.is(error)) throw error;
    throw fail(`${error instanceof Error ? error.message.split('\n')[0] : String(error)}.`);
  }
  return checkFile(schema, value, where);
}

/** Longest YAML that is read: the time that it takes grows with the square of its keys. */
const LONGEST = 2 ** 18;

/** Checks a parsed file against its schema. */
export function checkFile<T>(schema: z.ZodType<T>, value: unknown, where: string): T {
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const lines = parsed.error.issues.map((issue) => {
    const at = issue.path.join('.') || 'the top level';
    if (issue.code !== 'unrecognized_keys') return `${at}: ${issue.message}`;
    const known = keysOf(schema, issue.path);
    return issue.keys
      .map((key) => {
        const [near] = nearest(key, known, 1);
        return `${at}: unknown key "${key}"${near ? `; did you mean "${near}"?` : ''}`;
      })
      .join('; ');
  });
  throw new AttuneError('BAD_CONFIG', `${where}: ${lines.join('; ')}.`, { where });
}

/** The keys a schema knows at a path, as far as it is made of objects. */
function keysOf(schema: z.ZodType, path: readonly PropertyKey[]): string[] {
  let at: unknown = schema;
  for (const part of path) {
    at = unwrap(at);
    const shape = (at as { shape?: Record<string, unknown> }).shape;
    at = shape ? shape[String(part)] : (at as { element?: unknown }).element;
    if (!at) return [];
  }
  return Object.keys((unwrap(at) as { shape?: object }).shape ?? {});
}

function unwrap(schema: unknown): unknown {
  const inner = (schema as { def?: { innerType?: unknown } }).def?.innerType;
  return inner ? unwrap(inner) : schema;
}
