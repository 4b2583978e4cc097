/** Reads model folders in diffusers' layout: configs and weights of their parts. */

import { existsSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';

import { AttuneError, parseJson, readText, Weights } from '@attune/engine';
import { z } from 'zod';

/** One part of a model folder: `unet`, `vae`, `text_encoder`, … */
export interface Part {
  readonly folder: string;
  /** The library's class name, as its config says. */
  readonly className: string | undefined;
  readonly config: unknown;
  readonly weights: Weights;
}

/** A parsed JSON file. Accepts the bare Infinity and NaN that some schedulers write. */
export function readJson(file: string): unknown {
  const fail = (what: string) => new AttuneError('BAD_JSON', `${file} ${what}.`, { file });
  return parseJson(readText(file), fail, { lenient: true, ordered: true });
}

/** Checks a config against its schema; the error names the file and the key. */
export function parseConfig<T>(schema: z.ZodType<T>, config: unknown, where: string): T {
  const parsed = schema.safeParse(config);
  if (parsed.success) return parsed.data;
  throw new AttuneError('BAD_CONFIG', `${where}: ${z.prettifyError(parsed.error)}`, { where });
}

const ClassName = z.looseObject({
  _class_name: z.string().optional(),
  architectures: z.array(z.string()).optional(),
});

/** A folder that holds a config.json and weights; `fresh` accepts one without weights. */
export function readPart(folder: string, { fresh = false } = {}): Part {
  const config = readJson(join(folder, 'config.json'));
  const named = ClassName.safeParse(config);
  return {
    folder,
    config,
    className: named.success
      ? (named.data._class_name ?? named.data.architectures?.[0])
      : undefined,
    weights: fresh && !hasWeights(folder) ? Weights.fromArrays({}) : readWeights(folder),
  };
}

const hasWeights = (folder: string): boolean =>
  readdirSync(folder).some((name) => /\.(safetensors|bin|ckpt|pth?)$/.test(name));

const STEMS = ['diffusion_pytorch_model', 'model', 'pytorch_model', 'adapter_model'];

/** Sets of weights that a folder may hold, in the order they are taken: plain, half precision, without averaging. */
export const weightVariants = ['', 'fp16', 'non_ema'] as const;

export interface WeightName {
  /** The empty one is plain. */
  readonly variant: string;
  readonly kind: 'safetensors' | 'bin';
}

const weightPattern = new RegExp(
  `^(?:${STEMS.join('|')})(?:-\\d+-of-\\d+)?(?:\\.(?<variant>\\w+?))?(?:-\\d+-of-\\d+)?` +
    `\\.(?<kind>safetensors|bin)(?:\\.index(?:\\.(?<late>\\w+))?\\.json)?$`,
);

/** A standard name of weights, of one of their shards or of the index of those; undefined for any other name. */
export function weightName(file: string): WeightName | undefined {
  const { variant, late, kind } = weightPattern.exec(file)?.groups ?? {};
  if (kind === undefined) return undefined;
  return { variant: variant ?? late ?? '', kind: kind as WeightName['kind'] };
}

/**
 * The weights of a folder: one file or a sharded index, plain before fp16, safetensors before the pickles
 * that older repositories have.
 */
export function readWeights(folder: string): Weights {
  const names = existsSync(folder) && statSync(folder).isDirectory() ? readdirSync(folder) : [];
  for (const kind of ['safetensors', 'bin'])
    for (const stem of STEMS)
      for (const variant of weightVariants.map((one) => one && `.${one}`)) {
        const file = `${stem}${variant}.${kind}`;
        if (names.includes(file)) return Weights.fromFile(join(folder, file));
        const index = [`${stem}.${kind}.index${variant}.json`, `${file}.index.json`].find((n) =>
          names.includes(n),
        );
        if (index) return Weights.fromFolderIndex(join(folder, index));
      }
  const other = names.find((name) => /\.(safetensors|bin|ckpt|pth?)$/.test(name));
  throw new AttuneError(
    'NO_WEIGHTS',
    `${folder} holds no weights of a standard name (${STEMS[0]}.safetensors or the like)${other ? `, only ${other}` : ''}.`,
    { folder },
  );
}
