/** What the calls of a run are fed: its routes, with the texts, pictures and first frames that the run has. */

import { AttuneError, type F32Array, i64, type NDArray, zeros } from '@attune/engine';

import {
  type Picture,
  type Routed,
  routesOf,
  routeText,
  type SourceName,
  sources,
} from '../adapters/routes.ts';
import type { Dims } from '../models/net.ts';
import { allRows, rows } from './frames.ts';
import type { ModelRunner } from './runner.ts';

type TextName = {
  [N in SourceName]: (typeof sources)[N] extends 'text' ? N : never;
}[SourceName];

/** The texts of a run, one for each clip. */
export type Texts = Readonly<Record<TextName, readonly string[]>>;

/** What a run has beside its texts. */
export interface Given {
  /** Sizes of the latents. */
  readonly dims: Dims;
  /** What is edited, [F, 3, H, W] in [0, 1]. */
  readonly input?: F32Array;
  /** The clean latent of the result's first frame, [1, C, h, w]. */
  readonly firstFrame?: F32Array;
  readonly task?: number;
}

/**
 * What a branch of the guidance does without. `words`: texts become the negative one, pictures of routes
 * black. `input`: so does what is edited. Latents and labels are in every branch.
 */
export interface Without {
  readonly words?: boolean;
  readonly input?: boolean;
}

type Feeds = Record<string, NDArray>;

interface Fed extends Routed {
  readonly route: NonNullable<Routed['route']>;
}

/** The routes of a model with the texts of a run encoded. `turns` are its texts one after the other. */
export class Conditions {
  /** Texts that were longer than the encoder reads, with their length in tokens. */
  readonly truncated: readonly { readonly prompt: string; readonly length: number }[];
  /** Tokens that the encoder reads. */
  readonly limit: number;
  readonly #runner: ModelRunner;
  readonly #turns: readonly Texts[];
  readonly #routes: readonly Fed[];
  readonly #states: ReadonlyMap<string, F32Array>;
  readonly #pictures = new Map<string, Promise<F32Array>>();

  private constructor(
    runner: ModelRunner,
    turns: readonly Texts[],
    routes: readonly Fed[],
    { states, truncated }: Awaited<ReturnType<ModelRunner['encodeText']>>,
    prompts: readonly string[],
  ) {
    this.#runner = runner;
    this.#turns = turns;
    this.#routes = routes;
    this.truncated = truncated;
    this.limit = states.shape[1];
    this.#states = new Map(prompts.map((prompt, i) => [prompt, rows(states, i, 1)]));
  }

  /** Throws what is wrong with the routes, and MISSING_PORT for a port that nothing is routed to. */
  static async of(runner: ModelRunner, turns: readonly Texts[]): Promise<Conditions> {
    const routes = routesOf(runner.model).flatMap((one): Fed[] => {
      if (one.route !== undefined) return [{ ...one, route: one.route }];
      if (one.spec.defaultTo === undefined)
        throw new AttuneError(
          'MISSING_PORT',
          `${one.port} must be fed, and nothing is routed to it: ${
            one.spec.takes
              ? `add a route to the stack file, or --route ${one.port}=…`
              : 'run the model with sample() instead'
          }.`,
          { port: one.port },
        );
      return [];
    });
    const used = routes
      .filter(({ spec }) => spec.takes === 'text')
      .flatMap(({ route }) =>
        turns.flatMap((texts) =>
          typeof route === 'object' && 'text' in route ? [route.text] : texts[route as TextName],
        ),
      );
    const prompts = [...new Set([...used, ...turns.flatMap(({ negative }) => negative)])];
    return new Conditions(runner, turns, routes, await runner.encodeText(prompts), prompts);
  }

  /** Whether anything is fed one of these sources. */
  reads(...names: readonly SourceName[]): boolean {
    return this.#routes.some(({ route }) => (names as readonly unknown[]).includes(route));
  }

  /**
   * What each branch of the guidance is fed in the turn number `turn`. Throws MISSING_PORT where a route
   * names what the run does not have.
   */
  async branches<N extends string>(
    turn: number,
    given: Given,
    branches: Readonly<Record<N, Without>>,
  ): Promise<Record<N, Feeds>> {
    const values: (readonly [Fed, NDArray])[] = [];
    for (const one of this.#routes) values.push([one, await this.#value(one, turn, given)]);
    const fed = Object.entries<Without>(branches).map(([name, without]) => [
      name,
      Object.fromEntries(
        values.map(([one, whole]) => [
          one.port,
          isLeft(one, without) ? this.#nothing(one, turn, whole) : whole,
        ]),
      ),
    ]);
    return Object.fromEntries(fed) as Record<N, Feeds>;
  }

  #value(one: Fed, turn: number, given: Given): NDArray | Promise<NDArray> {
    const { port, spec, route } = one;
    switch (spec.takes) {
      case 'text':
        return this.#text(
          typeof route === 'object' && 'text' in route
            ? this.#turns[turn].negative.map(() => route.text)
            : this.#turns[turn][route as TextName],
        );
      case 'label':
        return i64([typeof route === 'number' ? route : taskOf(port, given)], [1]);
      case 'latents':
        return this.#latents(one, given);
      default:
        return this.#image(one, given);
    }
  }

  /** What stands for a text or a picture in a branch without it. */
  #nothing({ spec }: Fed, turn: number, { shape }: NDArray): NDArray {
    return spec.takes === 'text' ? this.#text(this.#turns[turn].negative) : zeros(shape);
  }

  #text(prompts: readonly string[]): F32Array {
    return allRows(prompts.map((prompt) => this.#states.get(prompt)!));
  }

  async #latents(one: Fed, given: Given): Promise<F32Array> {
    if (one.route === 'first_frame') return given.firstFrame ?? missing(one);
    const { factor } = this.#runner.latents;
    const [H, W] = [given.dims.H * factor, given.dims.W * factor];
    return this.#runner.encodeImages(await this.#picture(one, given, H, W));
  }

  async #image(one: Fed, given: Given): Promise<F32Array> {
    const { spec } = one;
    const [, H, W] = spec.shape(given.dims);
    const picture = await this.#picture(one, given, H, W);
    const repeated = spec.per === 'frame' && picture.shape[0] === 1 ? given.dims.F : 1;
    return allRows(Array.from({ length: repeated }, () => picture));
  }

  /** What a route to a picture gives; one that is always the same is read once for each size. */
  #picture(one: Fed, given: Given, H: number, W: number): F32Array | Promise<F32Array> {
    const { route, port } = one;
    const { input, firstFrame } = given;
    if (route === 'input') return input ?? missing(one);
    if (route === 'input_first') return input ? rows(input, 0, 1) : missing(one);
    if (route === 'first_frame') return firstFrame ? this.#decoded(firstFrame) : missing(one);
    const key = `${port} ${H} ${W}`;
    const known = this.#pictures.get(key);
    if (known) return known;
    const read = (route as { readonly image: Picture }).image(H, W);
    this.#pictures.set(key, read);
    return read;
  }

  async #decoded(latents: F32Array): Promise<F32Array> {
    const picture = await this.#runner.decodeLatents(latents);
    return { ...picture, data: picture.data.map((v) => Math.min(1, Math.max(0, v))) };
  }
}

/** Whether a branch does without what is routed here. */
const isLeft = ({ spec: { takes }, route }: Fed, { words = false, input = false }: Without) =>
  takes === 'text' ? words : takes === 'image' && (typeof route === 'object' ? words : input);

function taskOf(port: string, { task }: Given): number {
  if (task !== undefined) return task;
  throw new AttuneError(
    'MISSING_PORT',
    `${port} must be fed: give the number of the task (--task).`,
    { port },
  );
}

function missing({ port, route }: Fed): never {
  throw new AttuneError(
    'MISSING_PORT',
    `${port} is fed ${routeText(route)}, which this run does not have: route something else to it, as a picture (--route ${port}=image:FILE).`,
    { port },
  );
}
