/** A stack file as a model: the backbone loaded, each adapter created by its plugin. */

import { existsSync, statSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';

import { AttuneError, Weights } from '@attune/engine';

import type { Adapter } from '../adapters/adapter.ts';
import { checkCoverage, compose } from '../adapters/compose.ts';
import { routesTo } from '../adapters/routes.ts';
import type { Strength } from '../adapters/strength.ts';
import { pulled } from '../hub/cache.ts';
import { isHubReference } from '../hub/reference.ts';
import { baseFamily } from '../models/families.ts';
import { readJson, readWeights } from '../models/folder.ts';
import { loadModel, type LoadOptions } from '../models/load.ts';
import type { Model } from '../models/model.ts';
import type { PluginLoader } from '../plugins/loader.ts';
import { createPartly, type Skipped, skippedText } from '../plugins/partial.ts';
import type { AdapterFile, AdapterKind, Detection } from '../plugins/plugin.ts';
import { NoiseSchedule } from '../schedule/noise.ts';
import { checkParts, findingText } from './check.ts';
import { type Declared, declaredOf } from './declared.ts';
import { checkAddresses } from './places.ts';
import { type ReadImage, readRoutes, readTensorImage } from './routes.ts';
import { checkFile, entryName, StackEntry, type StackFile } from './schema.ts';
import { type ReadMask, readStrength, readTensorMask } from './strength.ts';

/** How a stack file becomes a model. */
export interface OpenOptions {
  /** Accept backbone parts without weights, to be initialised. */
  readonly fresh?: boolean;
  /** The stack as it makes single frames: without adapters that mix frames or say `stills: false`. */
  readonly stills?: boolean;
  /** Reads the masks of strengths. Default: .safetensors files with a tensor `mask`. */
  readonly readMask?: ReadMask;
  /** Opens the pictures of routes. Default: .safetensors files with a tensor `image`. */
  readonly readImage?: ReadImage;
  /** Frames at once that the stack is opened for; more than an adapter sees are refused. */
  readonly frames?: number;
  /** As if every entry said `allow_partial: true`. */
  readonly allowPartial?: boolean;
  /** Told what the check of the stack warns of. */
  readonly onWarning?: (text: string) => void;
}

/** One adapter of a stack, with what is known of it before any weight is read. */
export interface StackPart {
  readonly entry: StackEntry;
  readonly adapter: Adapter;
  readonly kind: AdapterKind;
  /** Of the kind, with its defaults. */
  readonly options: unknown;
  readonly strength?: Strength;
  readonly file?: AdapterFile;
  readonly detection?: Detection;
  readonly declared: Declared;
  /** What of its file was passed over, where that is allowed. */
  readonly skipped?: Skipped;
}

/** A stack taken apart. Headers and configs were read, no values of weights. */
export interface StackParts {
  /** The folder that paths of the stack are relative to. */
  readonly folder: string;
  /** The folder or file of the backbone. */
  readonly path: string;
  /** The folder that the configs of a single-file checkpoint come from. */
  readonly config?: string;
  /** `ema`: its moving average was taken. */
  readonly weights?: 'ema';
  readonly backbone: Model;
  /** In order; those of strength 0 and those that stills leave out included. */
  readonly parts: readonly StackPart[];
  /** As the stack file has them. */
  readonly routes: NonNullable<StackFile['routes']>;
  /** With the routes to what is in it. */
  readonly model: Model;
}

/**
 * Opens a stack; paths are relative to `folder`, or name what was pulled from a hub (`hf:owner/name`). Throws
 * STACK_CONFLICT for what its check finds wrong, what `checkCoverage` throws for an adapter's file that
 * does not fit as a whole, PARTIAL where something is skipped and nobody would be told.
 */
export async function openStack(
  stack: StackFile,
  folder: string,
  loader: PluginLoader,
  options: OpenOptions = {},
): Promise<Model> {
  const whole = await readStackParts(stack, folder, loader, options);
  refuseSilence(whole, options);
  const { frames, fresh, onWarning } = options;
  const tell = (findings: ReturnType<typeof checkParts>): void => {
    for (const finding of findings)
      if (finding.level === 'warning') onWarning?.(findingText(finding));
  };
  const findings = checkParts(whole, frames === undefined ? {} : { frames });
  tell(findings);
  refuseConflicts(findings);
  if (!fresh) checkCoverage(whole.model);
  if (onWarning) tell(checkAddresses(whole));
  return whole.model;
}

/** What is skipped must be told; stills are opened beside the stack, which tells it. */
function refuseSilence({ parts }: StackParts, { onWarning, stills }: OpenOptions): void {
  if (onWarning || stills) return;
  for (const { adapter, skipped } of parts) {
    const text = skipped && skippedText(skipped);
    if (text !== undefined)
      throw new AttuneError(
        'PARTIAL',
        `The adapter ${adapter.name} ${text}: here it has to be whole.`,
        { adapter: adapter.name },
      );
  }
}

/** Throws STACK_CONFLICT with every error among the findings. */
export function refuseConflicts(findings: ReturnType<typeof checkParts>): void {
  const errors = findings.filter(({ level }) => level === 'error');
  if (errors.length)
    throw new AttuneError('STACK_CONFLICT', errors.map(findingText).join('\n'), {
      topics: errors.map(({ topic }) => topic),
    });
}

/** Takes a stack apart, for its check and its lock. Reads headers and configs only. */
export async function readStackParts(
  stack: StackFile,
  folder: string,
  loader: PluginLoader,
  {
    fresh = false,
    stills = false,
    readMask = readTensorMask,
    readImage = readTensorImage,
    allowPartial = false,
  }: OpenOptions = {},
): Promise<StackParts> {
  const { path, ...config } = await backbonePaths(stack, folder, loader);
  const loaded = await fromHub(stack.backbone, () => loadModel(path, { fresh, loader, ...config }));
  let model: Model = {
    ...loaded,
    ...(stack.train ? { train: stack.train } : {}),
    ...(stack.schedule === 'default'
      ? {}
      : { schedule: scheduled(stack.schedule, loaded.schedule) }),
  };
  const prepared = [];
  for (const entry of stack.adapters)
    prepared.push(await prepare(allowing(entry, allowPartial), folder, loader, readMask));
  const parts: StackPart[] = [];
  for (const [i, one] of prepared.entries()) {
    const { adapter, skipped } = create(one, model, loaded, prepared.slice(i + 1));
    const { entry, file } = one;
    parts.push({
      ...one,
      adapter,
      declared: declaredOf(entry, adapter, file),
      ...(skipped ? { skipped } : {}),
    });
    const left = stills && (entry.stills === false || adapter.mixesFrames);
    if (!left) model = compose(model, adapter);
  }
  const { routes = {} } = stack;
  const read = await readRoutes(routes, (image) => placeOf(image, folder), readImage);
  const fed = routesTo(model.adapters, read);
  if (Object.keys(fed).length > 0) model = { ...model, routes: fed };
  return { folder, path, ...config, backbone: loaded, parts, routes, model };
}

/** Keys of a scheduler config without which the rest says no noise. */
const noise = /^(_class_name|beta_(start|end|schedule)|trained_betas)$/;

/** A schedule of the stack file, whole, or some keys that go over the backbone's own. */
function scheduled(
  given: Exclude<StackFile['schedule'], 'default'>,
  own: NoiseSchedule | undefined,
): NoiseSchedule {
  const whole = !own || Object.keys(given).some((key) => noise.test(key));
  return NoiseSchedule.of(whole ? given : { ...own.config, ...given }, 'schedule');
}

type Prepared = Omit<StackPart, 'adapter' | 'declared' | 'skipped'>;

const allowing = (entry: StackEntry, allowed: boolean): StackEntry =>
  allowed ? { ...entry, allow_partial: true } : entry;

async function prepare(
  entry: StackEntry,
  folder: string,
  loader: PluginLoader,
  readMask: ReadMask,
): Promise<Prepared> {
  const { use, from, strength } = entry;
  const rest = Object.fromEntries(
    Object.entries(entry).filter(([key]) => !(key in StackEntry.shape)),
  );
  const kind = await loader.get('adapters', use);
  const options = checkFile(kind.options, rest, `adapter ${entryName(entry)}`);
  const file =
    from === undefined
      ? undefined
      : await fromHub(from, () => readAdapterFile(placeOf(from, folder)));
  const detection = file && kind.detect?.(file);
  return {
    entry,
    kind,
    options,
    ...(strength === undefined
      ? {}
      : { strength: await readStrength(strength, (mask) => placeOf(mask, folder), readMask) }),
    ...(file ? { file } : {}),
    ...(detection ? { detection } : {}),
  };
}

/** The adapter of an entry on a model; what keeps it from being made is explained where it can be. */
function create(
  prepared: Prepared,
  model: Model,
  backbone: Model,
  later: readonly Prepared[],
): Made {
  try {
    return made(prepared, model);
  } catch (error) {
    if (!AttuneError.is(error)) throw error;
    const name = entryName(prepared.entry);
    const after = later.find((other) => fitsAfter(prepared, other, model));
    if (after) {
      const other = entryName(after.entry);
      throw new AttuneError(
        'STACK_CONFLICT',
        `${name} acts inside ${other}, which comes after it in the stack: put ${name} after ${other}.`,
        { adapter: name, after: other },
      );
    }
    const [own, base] = [prepared.detection?.base, baseFamily(backbone.weights)];
    if (own !== undefined && base !== undefined && own !== base)
      throw new AttuneError(
        'STACK_CONFLICT',
        `${name} was made for ${own}, the backbone is ${base}: take a file for ${base}, or the backbone it was trained on (${error.message})`,
        { adapter: name, own, base },
      );
    throw error;
  }
}

type Made = Pick<StackPart, 'adapter' | 'skipped'>;

function made({ entry, kind, options, strength, file }: Prepared, model: Model): Made {
  const request = {
    name: entryName(entry),
    model,
    ...(strength === undefined ? {} : { strength }),
    ...(entry.train === undefined ? {} : { train: entry.train }),
  };
  return file && entry.allow_partial
    ? createPartly(kind, { ...request, file }, options)
    : { adapter: kind.create({ ...request, ...(file ? { file } : {}) }, options) };
}

function fitsAfter(prepared: Prepared, other: Prepared, model: Model): boolean {
  try {
    made(prepared, compose(model, made(other, model).adapter));
    return true;
  } catch {
    return false;
  }
}

/** Where a path of a stack file leads: relative to its folder, or into the cache of a hub. */
export const placeOf = (path: string, folder: string): string => resolve(folder, pulled(path));

/** Reads what a path names. Where a hub's snapshot lacks a file, the cache may hold a part of it: that is said. */
async function fromHub<T>(path: string, read: () => T | Promise<T>): Promise<T> {
  try {
    return await read();
  } catch (error) {
    const lacks = AttuneError.is(error) && /^(MISSING_FILE|NO_MODEL|NO_WEIGHTS)$/.test(error.code);
    if (!isHubReference(path) || !lacks) throw error;
    const { code, message, facts } = error;
    const fix = `The cache may hold a part of it only; the rest comes with: attune pull ${path}`;
    throw new AttuneError(code, `${message} ${fix}`, facts);
  }
}

/** Where a stack's backbone lies, the folder whose configs it takes, and which of its copies. */
export async function backbonePaths(
  { backbone, config, weights }: Pick<StackFile, 'backbone' | 'config' | 'weights'>,
  folder: string,
  loader: PluginLoader,
): Promise<{ readonly path: string } & Pick<LoadOptions, 'config' | 'weights'>> {
  const bundled = loader.ids('backbones').includes(backbone);
  return {
    path: bundled ? (await loader.get('backbones', backbone)).folder() : placeOf(backbone, folder),
    ...(config === undefined ? {} : { config: placeOf(config, folder) }),
    ...(weights === undefined ? {} : { weights }),
  };
}

/** Names that a checkpoint has beside its config, in a folder of its own. */
const standard = /^(diffusion_pytorch_model|model|adapter_model)\b/;

/** A checkpoint file, or a folder with one and its config; the file of such a folder stands for it. */
export function readAdapterFile(path: string): AdapterFile {
  const whole = existsSync(path) && statSync(path).isDirectory();
  const folder = whole ? path : standard.test(basename(path)) ? dirname(path) : undefined;
  const config =
    folder === undefined
      ? undefined
      : ['config.json', 'adapter_config.json']
          .map((name) => join(folder, name))
          .find((file) => existsSync(file));
  const weights = whole ? readWeights(path) : Weights.fromFile(path);
  return {
    path,
    weights,
    metadata: weights.metadata,
    ...(config ? { config: readJson(config) } : {}),
  };
}
