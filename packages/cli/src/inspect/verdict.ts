/** The verdict on a file, a folder or a stack. Whatever the bytes are, there is one. */

import { existsSync, lstatSync, readdirSync, statSync } from 'node:fs';
import { basename, join } from 'node:path';

import {
  type AdapterFile,
  type AdapterKind,
  baseFamily,
  checkpointPredicts,
  type Detection,
  firstNotFinite,
  hasAverage,
  isCheckpoint,
  loadModel,
  type Model,
  type PluginLoader,
  readAdapterFile,
  type Skipped,
  type Survey,
  surveyAdapter,
  surveyPart,
  surveyNets,
} from '@attune/core';
import { AttuneError, type Weights } from '@attune/engine';

import { openWhole } from '../probe/model.ts';
import { readStack } from '../stack.ts';
import { warn } from '../terminal.ts';
import { type Foreign, recogniseFile } from './foreign.ts';
import { idleNames, isRead } from './idle.ts';
import { recogniseFolder, recogniseNames, strangeAdapter, unknown } from './layouts.ts';

export interface Verdict {
  readonly file: string;
  /** Whether the file is what its format says, whatever it holds. */
  readonly container: 'ok' | 'refused';
  readonly verdict: 'loadable' | 'refused';
  /** What `use:` of a stack names, `model`, `stack`, or what else it is. */
  readonly kind: string | null;
  readonly dialect: string | null;
  readonly algorithm: string | null;
  readonly base: string | null;
  readonly modules: {
    readonly matched: number;
    readonly unmatched: number;
    readonly misshaped: number;
    /** Null where the values were not read. */
    readonly zeroEffect: number | null;
  };
  /** The modules without effect, as the file spells them; empty where the values were not read. */
  readonly idle: readonly string[];
  /** By module, as the file spells it. */
  readonly ranks: Readonly<Record<string, number>>;
  readonly alphas: Readonly<Record<string, number>>;
  /** What was passed over, where that is allowed. */
  readonly skipped: Skipped;
  /** What the file does not tell: how it is taken, and the option that takes it otherwise. */
  readonly chosen: string | null;
  readonly reason: string | null;
  readonly fix: string | null;
}

const nothing = { matched: 0, unmatched: 0, misshaped: 0, zeroEffect: 0 };

const verdictOn = (file: string, known: Partial<Verdict>): Verdict => ({
  file,
  container: 'ok',
  verdict: 'loadable',
  kind: null,
  dialect: null,
  algorithm: null,
  base: null,
  modules: nothing,
  idle: [],
  ranks: {},
  alphas: {},
  skipped: { unused: [], lacking: [] },
  chosen: null,
  reason: null,
  fix: null,
  ...known,
});

const refused = (file: string, { kind, reason, fix }: Foreign, known: Partial<Verdict> = {}) =>
  verdictOn(file, { verdict: 'refused', kind, reason, fix, ...known });

export interface InspectContext {
  readonly loader: PluginLoader;
  /** The model to fit against. */
  readonly base?: Model;
  /** Passed over and told: what of an adapter's file does not fit, or is lacking. */
  readonly allowPartial?: boolean;
  /** Read the values of any file; those of big ones are left unread otherwise. */
  readonly deep?: boolean;
}

/** Never throws for what is in the file: a failure is a verdict. */
export async function inspect(file: string, context: InspectContext): Promise<Verdict> {
  const broken = { container: 'refused' } as const;
  try {
    const stat = statSync(file, { throwIfNoEntry: false });
    if (!stat && context.loader.ids('backbones').includes(file)) {
      const bundled = await context.loader.get('backbones', file);
      return { ...(await inspectFolder(bundled.folder(), context)), file };
    }
    if (!stat && context.loader.ids('stacks').includes(file))
      return await inspectStack(file, context);
    if (!stat)
      return refused(
        file,
        { kind: null, reason: 'it does not exist', fix: `check the path${bundledText(context)}` },
        broken,
      );
    if (stat.isDirectory()) return await inspectFolder(file, context);
    if (!stat.isFile())
      return refused(
        file,
        { kind: null, reason: 'it is no file but a device or pipe', fix: 'name a file' },
        broken,
      );
    if (/\.ya?ml$/.test(file)) return await inspectStack(file, context);
    const foreign = recogniseFile(file);
    if (foreign) return refused(file, foreign, broken);
    const read = readAdapterFile(file);
    return await inspectAdapter(file, read, context);
  } catch (error) {
    const reason = AttuneError.is(error)
      ? error.message
      : `it cannot be read: ${error instanceof Error ? error.message : String(error)}`;
    const fix = 'download or write it again, or take another file';
    return refused(file, { kind: null, reason, fix }, broken);
  }
}

/** What may be named without being a path. */
function bundledText({ loader }: InspectContext): string {
  const names = [...loader.ids('backbones'), ...loader.ids('stacks')];
  return names.length > 0 ? `; by their names alone there are ${names.join(', ')}` : '';
}

async function inspectFolder(file: string, context: InspectContext): Promise<Verdict> {
  const odd = readdirSync(file, { withFileTypes: true }).find(
    (entry) => !entry.isFile() && !entry.isDirectory() && isSpecial(join(file, entry.name)),
  );
  if (odd)
    return refused(
      file,
      { kind: null, reason: `it holds a device or pipe (${odd.name})`, fix: 'remove it' },
      { container: 'refused' },
    );
  const other = recogniseFolder(file);
  if (other) return refused(file, other);
  const parts = ['unet', 'vae', 'text_encoder'].filter((part) =>
    existsSync(join(file, part, 'config.json')),
  );
  if (parts.length > 0)
    return inspectModel(file, 'model', await loadModel(file, { loader: context.loader }), context);
  const single = readdirSync(file).filter((name) => name.endsWith('.safetensors'));
  const standard = /^(diffusion_pytorch_model|model|adapter_model)\b/;
  if (single.length > 0 && !single.some((name) => standard.test(name)))
    return refused(file, {
      kind: null,
      reason: `its .safetensors have no standard name (${single.slice(0, 3).join(', ')})`,
      fix: 'inspect and use the file itself',
    });
  const adapter = readAdapterFile(file);
  if (await detect(adapter, context)) return inspectAdapter(file, adapter, context);
  const model = await loadModel(file, { loader: context.loader });
  const [net] = Object.keys(model.nets);
  return inspectModel(file, net.startsWith('vae') ? 'vae' : net, model, context);
}

const isSpecial = (path: string): boolean => {
  const stat = statSync(path, { throwIfNoEntry: false }) ?? lstatSync(path);
  return !stat.isFile() && !stat.isDirectory() && !stat.isSymbolicLink();
};

/** A whole model in one file; what its config must be is told by its names and shapes. */
async function inspectCheckpoint(
  file: string,
  weights: Weights,
  context: InspectContext,
): Promise<Verdict> {
  const both =
    'It holds its UNet twice: as trained last, which is taken, and as a moving average (`weights: ema` in a stack file).';
  const told = (reason: string | null) =>
    hasAverage(weights) ? (reason === null ? both : `${reason} ${both}`) : reason;
  let chosen: string | null = null;
  try {
    chosen = predictionText(weights);
    const model = await loadModel(file, { loader: context.loader });
    const verdict = inspectModel(file, 'model', model, context, 'ldm');
    return { ...verdict, chosen, reason: told(verdict.reason) };
  } catch (error) {
    if (!AttuneError.is(error)) throw error;
    const reason = told(error.message) ?? error.message;
    const fix = 'name a model folder with its configs as `config` in the stack file';
    return refused(file, { kind: 'model', reason, fix }, { dialect: 'ldm', chosen });
  }
}

/** How a checkpoint's prediction is taken, where that has to be guessed or could be wrong. */
function predictionText(weights: Weights): string | null {
  const { type, sign } = checkpointPredicts(weights);
  if (sign === undefined) return null;
  const other = type === 'epsilon' ? 'v_prediction' : 'epsilon';
  return `its prediction as ${type}, by ${sign} (schedule: { prediction_type: ${other} } in the stack file takes it otherwise)`;
}

function inspectModel(
  file: string,
  kind: string,
  model: Model,
  context: InspectContext,
  dialect = 'diffusers',
): Verdict {
  const known = {
    kind,
    dialect,
    algorithm: Object.keys(model.nets).join(' + '),
    base: baseFamily(model.weights) ?? null,
  };
  return surveyed(file, surveyNets(model), model.weights, known, context);
}

async function inspectStack(file: string, context: InspectContext): Promise<Verdict> {
  const argument = await readStack(file);
  const known = { kind: 'stack', dialect: 'attune' };
  try {
    const { loader, allowPartial = false } = context;
    const model = await openWhole(argument, loader, { allowPartial });
    const about = {
      ...known,
      algorithm: model.adapters.map(({ name }) => name).join(' + ') || null,
      base: baseFamily(model.weights) ?? null,
    };
    return surveyed(file, surveyNets(model), model.weights, about, context);
  } catch (error) {
    if (!AttuneError.is(error)) throw error;
    return refused(
      file,
      { kind: 'stack', reason: error.message, fix: 'correct the stack file' },
      known,
    );
  }
}

interface Detected {
  readonly id: string;
  readonly kind: AdapterKind;
  readonly detection: Detection;
}

/** The first adapter kind that knows the file. */
async function detect(
  file: AdapterFile,
  { loader }: InspectContext,
): Promise<Detected | undefined> {
  for (const id of loader.ids('adapters')) {
    try {
      const kind = await loader.get('adapters', id);
      const detection = kind.detect?.(file);
      if (detection) return { id, kind, detection };
    } catch (error) {
      // One broken plugin must not hide what the others know.
      const reason = error instanceof Error ? error.message : String(error);
      warn(`the adapter kind ${id} was not asked: ${reason}`);
    }
  }
  return undefined;
}

async function inspectAdapter(
  file: string,
  adapter: AdapterFile,
  context: InspectContext,
): Promise<Verdict> {
  const found = await detect(adapter, context);
  // Asked second: whole checkpoints may hold an adapter, as the first ControlNets' do.
  if (!found) {
    const foreign = recogniseNames(adapter.weights);
    if (foreign) return refused(file, foreign);
    return isCheckpoint(adapter.weights)
      ? inspectCheckpoint(file, adapter.weights, context)
      : refused(file, unknown(adapter.weights));
  }
  const { id, kind, detection } = found;
  const known = {
    kind: id,
    dialect: detection.dialect,
    algorithm: detection.algorithm ?? null,
    base: detection.base ?? null,
    chosen: detection.chosen ?? null,
  };
  const { base, allowPartial } = context;
  const survey =
    base && allowPartial ? surveyPart(kind, adapter, base) : surveyAdapter(kind, adapter, base);
  const strange = base && !survey.refusal ? undefined : strangeAdapter(detection.base);
  const whole = strange ? { ...survey, refusal: strange } : survey;
  return surveyed(file, whole, adapter.weights, known, context);
}

/** The verdict that a survey and, of a small file or when asked for, the values themselves lead to. */
function surveyed(
  file: string,
  { modules, refusal, skipped }: Survey,
  weights: Weights,
  known: Partial<Verdict>,
  { deep }: InspectContext,
): Verdict {
  const count = (fit: string) => modules.filter((module) => module.fit === fit).length;
  const reads = isRead(weights, deep);
  const without = reads ? idleNames(modules) : [];
  const zeroEffect = reads ? without.length : null;
  const notFinite = reads ? firstNotFinite(weights)?.name : undefined;
  const why =
    notFinite === undefined
      ? refusal
      : {
          reason: `the tensor ${notFinite} holds NaN or infinity`,
          fix: 'take another copy: the training that wrote it diverged, or the file is damaged',
        };
  const pick = (key: 'rank' | 'alpha') =>
    Object.fromEntries(
      modules.flatMap((module) => (module[key] === undefined ? [] : [[module.name, module[key]]])),
    );
  const idle = modules.length > 0 && zeroEffect === modules.length;
  return verdictOn(file, {
    ...known,
    verdict: why ? 'refused' : 'loadable',
    modules: {
      matched: count('matched'),
      unmatched: count('unmatched'),
      misshaped: count('misshaped'),
      zeroEffect,
    },
    idle: without,
    ranks: pick('rank'),
    alphas: pick('alpha'),
    ...(skipped ? { skipped } : {}),
    reason: why?.reason ?? (idle ? `${basename(file)} changes nothing: all of it is zero` : null),
    fix: why?.fix ?? (idle ? 'train it first' : null),
  });
}
