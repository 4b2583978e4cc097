/** definePlugin: what a plugin's code exports. */

import type { NDArray, Runtime, Weights } from '@attune/engine';
import type { z } from 'zod';

import type { Adapter } from '../adapters/adapter.ts';
import type { Strength } from '../adapters/strength.ts';
import type { Model } from '../models/model.ts';
import type { EditModels } from '../sample/edit.ts';
import type { Sampler } from '../schedule/sampler.ts';
import type { Sampling, StackFile } from '../stack/schema.ts';
import type { DataSource } from '../train/data.ts';
import type { Objective } from '../train/objective.ts';
import type { Survey } from './survey.ts';

/** What every adapter of a stack is created with, whatever its kind. */
export interface AdapterRequest {
  readonly name: string;
  /** The file or folder named by `from`, if any, as tensors and metadata. */
  readonly file?: AdapterFile;
  readonly strength?: Strength;
  readonly train?: true | readonly string[];
  /** The model it will act on: its addresses and widths. */
  readonly model: Model;
}

/** A checkpoint as it lies on disk: nothing renamed. */
export interface AdapterFile {
  readonly path: string;
  readonly weights: Weights;
  /** The header's metadata. */
  readonly metadata: Readonly<Record<string, string>>;
  /** A config file beside the weights (config.json, adapter_config.json), parsed. */
  readonly config?: unknown;
}

/** What a format looks like to its kind. */
export interface Detection {
  /** `diffusers`, `kohya`, `peft`, … */
  readonly dialect: string;
  /** Why: the keys or shapes that gave it away. */
  readonly evidence: string;
  /** `lora`, `controlnet`, … */
  readonly algorithm?: string;
  /** The family of models it was made for, where the file tells. */
  readonly base?: string;
  /** What the file does not tell and is taken as said here, with the option that takes it otherwise. */
  readonly chosen?: string;
}

/** A setting under which the conformance kit examines a kind: what it cannot see by itself. */
export interface KindExample {
  /** Options of a stack entry. */
  readonly options?: Readonly<Record<string, unknown>>;
  /** False where a fresh adapter acts from the start. Default true. */
  readonly startsAsIdentity?: boolean;
  /** The net it acts on. Default `unet`. */
  readonly net?: string;
}

/** One sort of file that a kind knows, by a few of its keys. */
export interface FormatSample {
  /** Enough for `detect`. */
  readonly keys: readonly string[];
  /** What is said of it in tables of formats. */
  readonly about: string;
}

/** A kind of adapter. */
export interface AdapterKind<O = unknown> {
  /** Options of a stack entry beside the common keys. */
  readonly options: z.ZodType<O>;
  /** Whether a file is of this kind, from its names and shapes alone. */
  detect?(file: AdapterFile): Detection | undefined;
  /**
   * What a detected file holds, module by module; against `model` where given. Absent: its names are
   * compared with the parameters that `create` asks for.
   */
  survey?(file: AdapterFile, model?: Model): Survey;
  /**
   * Tensors of the file that it cannot use are an error with their keys as `lost` among its facts, so that
   * a stack which allows it can do without them.
   */
  create(request: AdapterRequest, options: O): Adapter;
  /** The sorts of files that `detect` knows, one sample of each. */
  readonly samples?: readonly FormatSample[];
  /** For `attune plugin test`. Absent: one, with the options' defaults. */
  readonly examples?: readonly KindExample[];
  /** The dialects that `write` knows. */
  readonly dialects?: readonly string[];
  /** A file of this kind in another dialect, its names resolved against the model it is for. */
  write?(request: WriteRequest): Written | Promise<Written>;
  /**
   * Several files of this kind, each times its strength, as one that does the same at strength 1, in a
   * dialect of `write`. What cannot be merged exactly is an error.
   */
  merge?(request: MergeRequest): Written | Promise<Written>;
}

/** A file that is to be written in another dialect. */
export interface WriteRequest {
  readonly file: AdapterFile;
  readonly model: Model;
  readonly dialect: string;
  /** Replace what the dialect cannot say by the nearest matrices of this rank. */
  readonly rank?: number;
  readonly runtime: Runtime;
}

/** Files of one kind that are to become one. */
export interface MergeRequest {
  readonly parts: readonly {
    /** Of the adapter. */
    readonly name: string;
    readonly file: AdapterFile;
    readonly strength?: Strength;
  }[];
  /** What they are stacked on, with the adapters of other kinds. */
  readonly model: Model;
  readonly dialect: string;
}

/** A checkpoint to be written: one file, or a folder with the config under a name of its own. */
export interface Written {
  readonly tensors: Readonly<Record<string, NDArray>>;
  readonly metadata?: Readonly<Record<string, string>>;
  /** Of an approximation: the relative error of all changed weights together (Frobenius). */
  readonly error?: number;
  readonly folder?: {
    /** Of the weights. */
    readonly file: string;
    readonly configs: Readonly<Record<string, unknown>>;
  };
}

/** A source of training data. */
export interface DataKind<O = unknown> {
  readonly options: z.ZodType<O>;
  /** Makes the source. `model` is what is trained on it: its tokenizer, its latents. */
  create(options: O, model: Model): DataSource | Promise<DataSource>;
}

/** A training objective. */
export interface ObjectiveKind<O = unknown> {
  readonly options: z.ZodType<O>;
  /** Makes the objective. `model` is what is trained: its schedule, its latents. */
  create(options: O, model: Model): Objective;
}

/** A way through the noise levels of a schedule. */
export interface SamplerKind<O = unknown> {
  /** What `sampling: { sampler: { use: …, … } }` of a stack file may say beside `use`. */
  readonly options: z.ZodType<O>;
  /** Makes the sampler. A plan that cannot be made of a schedule is an `AttuneError` at its call. */
  create(options: O): Sampler;
}

/** A bundled model, by name. */
export interface BackboneKind {
  /** Folder in diffusers layout. */
  folder(): string;
}

/** A bundled stack, by name. */
export interface StackKind {
  /** The stack file. */
  file(): string;
}

/**
 * A family of nets: what a part of a model folder is, when the `_class_name` of its config.json is
 * this kind's id (`scope/name`).
 */
export interface NetKind<C = unknown> {
  /** The rest of that config.json. */
  readonly config: z.ZodType<C>;
  /** `name` is the part's name: the first part of its parameters' names. */
  create(config: C, name: string): Pick<Model, 'nets' | 'latents' | 'sampleSize'>;
}

/** A stack that is to be measured. */
export interface Contestant {
  readonly name: string;
  readonly models: EditModels;
  readonly sampling: Omit<Sampling, 'sampler'>;
  /** The one that its stack names. */
  readonly sampler: Sampler;
}

/** What a suite is run with. */
export interface SuiteContext {
  readonly runtime: Runtime;
  /** Opens a stack, as `openStack`, with the plugins of the command. */
  readonly open: (stack: StackFile, options?: { readonly stills?: boolean }) => Promise<Model>;
  /** After each of the suite's units of work. */
  readonly onProgress?: (done: number, of: number) => void;
}

/** An evaluation: its own data, on which it runs and measures stacks. */
export interface SuiteKind<O = unknown> {
  readonly options: z.ZodType<O>;
  /** Measures the contestants on equal data with equal noise. */
  run(contestants: readonly Contestant[], options: O, context: SuiteContext): Promise<Verdict>;
}

/** What a suite found. */
export interface Verdict {
  /** For people (Markdown). */
  readonly text: string;
  /** The same and more, as JSON. */
  readonly data: unknown;
  /** Names of the contestants, the best first, by the suite's own primary score. */
  readonly order: readonly string[];
}

/**
 * Contributions of each kind, by the last part of their ids: `gain` is `scope/gain`. package.json declares
 * the same ids.
 */
export interface PluginContributions {
  readonly adapters?: Readonly<Record<string, AdapterKind>>;
  readonly data?: Readonly<Record<string, DataKind>>;
  readonly objectives?: Readonly<Record<string, ObjectiveKind>>;
  readonly samplers?: Readonly<Record<string, SamplerKind>>;
  readonly backbones?: Readonly<Record<string, BackboneKind>>;
  readonly nets?: Readonly<Record<string, NetKind>>;
  readonly suites?: Readonly<Record<string, SuiteKind>>;
  readonly stacks?: Readonly<Record<string, StackKind>>;
}

/** The default export of a plugin's main file. */
export interface Plugin {
  /** The contract version its code was written for. */
  readonly api: number;
  readonly contributes: PluginContributions;
}

/** Gives a plugin its type. */
export const definePlugin = (plugin: Plugin): Plugin => plugin;

/** Ties a kind's options to its `create`, then forgets their type. */
export const adapterKind = <O>(kind: AdapterKind<O>): AdapterKind => kind;
/** Ties a data source's options to its `create`, then forgets their type. */
export const dataKind = <O>(kind: DataKind<O>): DataKind => kind;
/** Ties an objective's options to its `create`, then forgets their type. */
export const objectiveKind = <O>(kind: ObjectiveKind<O>): ObjectiveKind => kind;
/** Ties a sampler's options to its `create`, then forgets their type. */
export const samplerKind = <O>(kind: SamplerKind<O>): SamplerKind => kind;
/** Ties the config of a family of nets to its `create`, then forgets its type. */
export const netKind = <C>(kind: NetKind<C>): NetKind => kind;
/** Ties a suite's options to its `run`, then forgets their type. */
export const suiteKind = <O>(kind: SuiteKind<O>): SuiteKind => kind;
