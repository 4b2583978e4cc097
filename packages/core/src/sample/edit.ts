/** Editing pictures and clips with a stack: what its ports are fed, window after window. */

import { AttuneError, type F32Array, i64, type NDArray, Rng, zeros } from '@attune/engine';

import { portRoles } from '../adapters/adapter.ts';
import type { Model } from '../models/model.ts';
import type { Plan } from '../schedule/sampler.ts';
import type { Guidance } from './guidance.ts';
import type { ModelRunner } from './runner.ts';
import { sample } from './sample.ts';
import { continuing, type WindowSize, windows } from './window.ts';

export interface EditRequest {
  /** What to change, for the adapters with a text of their own. */
  readonly instruction: string;
  /** What the result shows, for the backbone; a clip's with words of motion. Default: none. */
  readonly caption?: string;
  readonly motionCaption?: string;
  /** Number of the task, where an adapter has a port for it. */
  readonly task?: number;
  readonly guidance: EditGuidance;
  readonly plan: Plan;
  /** Frame n of a clip starts from the same noise whatever window it is in; noise that a sampler adds on the way is drawn per window. */
  readonly seed: number;
  /** Pixels [height, width]. */
  readonly size: readonly [number, number];
  readonly window: WindowSize;
  /** Calls of `onStep` count the steps of one part: of a first frame, or of a window of frames. */
  readonly onStep?: (done: number, of: number, part: EditPart) => void;
  /** What had to differ from what was asked, for people to read. */
  readonly onNotice?: (text: string) => void;
}

export type EditPart = 'first frame' | 'frames';

/** Scales in InstructPix2Pix's order, none → image → image and text (Brooks et al. 2023, equation 3); 1 is none. */
export interface EditGuidance {
  readonly text: number;
  readonly image: number;
}

/** The stack, and the part of it that edits single frames: no adapter that mixes frames. */
export interface EditModels {
  readonly stack: ModelRunner;
  readonly stills: ModelRunner;
}

type Feeds = Record<string, NDArray>;

/** What an edit feeds, by the name of a port. */
type Role = (typeof portRoles)[number];

/** Full names of a stack's ports by their role; throws where one is required that an edit does not know. */
function portsByRole({ adapters }: Model): Record<Role, string[]> {
  const found: Record<Role, string[]> = {
    image: [],
    encoder_hidden_states: [],
    first_frame: [],
    task: [],
  };
  for (const { name, ports = {} } of adapters)
    for (const [port, spec] of Object.entries(ports)) {
      if ((portRoles as readonly string[]).includes(port))
        found[port as Role].push(`${name}.${port}`);
      else if (spec.defaultTo === undefined)
        throw new AttuneError(
          'MISSING_PORT',
          `${name}.${port} must be fed, and an edit knows only ${portRoles.join(', ')}; run the model with sample() instead.`,
          { adapter: name, port },
        );
    }
  return found;
}

/**
 * Edits frames [3, height, width] in [0, 1] one window after the other and yields them in order, as
 * the decoder gives them (about [0, 1]). A clip of one frame is a picture: it is edited by `stills`.
 * A window after the first continues the one before: the frames they share correct the others
 * (see `continuing`), and the first of them is its first frame. The clip's own first frame is edited
 * by `stills` (EVE, arXiv 2403.09334, section 3.2). Memory does not grow with the length.
 */
export async function* editFrames(
  models: EditModels,
  frames: Iterable<Float32Array> | AsyncIterable<Float32Array>,
  request: EditRequest,
): AsyncGenerator<Float32Array> {
  const { stack, stills } = models;
  const mixes = stack.model.adapters.some(({ mixesFrames }) => mixesFrames);
  const size = mixes ? request.window : { size: request.window.size, overlap: 0 };
  const clip = await Editor.of(stack, request, 'frames');
  const still = await Editor.of(stills, request, 'first frame');
  let before: F32Array | undefined;
  for await (const { frames: some, start, seen } of windows(frames, size)) {
    const image = stacked(some, request.size);
    const alone = start === 0 && some.length === 1;
    const known = before && seen > 0 ? rows(before, before.shape[0] - seen, seen) : undefined;
    const first = async (): Promise<F32Array> =>
      known ? rows(known, 0, 1) : still.run(rows(image, 0, 1), start);
    const latents = alone
      ? await still.run(image, start)
      : await clip.run(image, start, clip.needsFirst ? await first() : undefined, known);
    before = latents;
    const pixels = await stack.decodeLatents(rows(latents, seen, some.length - seen));
    const frame = 3 * request.size[0] * request.size[1];
    for (let at = 0; at < pixels.data.length; at += frame)
      yield pixels.data.subarray(at, at + frame).map((value) => (value + 1) / 2);
  }
}

/** One stack with its prompts encoded. */
class Editor {
  readonly #runner: ModelRunner;
  readonly #request: EditRequest;
  readonly #part: EditPart;
  readonly #ports: Record<Role, string[]>;
  readonly #texts: Record<'caption' | 'instruction' | 'nothing', F32Array>;

  private constructor(
    runner: ModelRunner,
    request: EditRequest,
    part: EditPart,
    ports: Record<Role, string[]>,
    texts: Record<'caption' | 'instruction' | 'nothing', F32Array>,
  ) {
    this.#runner = runner;
    this.#request = request;
    this.#part = part;
    this.#ports = ports;
    this.#texts = texts;
  }

  static async of(runner: ModelRunner, request: EditRequest, part: EditPart): Promise<Editor> {
    const still = part === 'first frame';
    const ports = portsByRole(runner.model);
    if (ports.image.length === 0)
      throw new AttuneError(
        'NO_EDIT_ADAPTER',
        'No adapter of the stack reads a source image (a port named image), so nothing of the input would reach the model; add an edit adapter.',
      );
    const { caption = '', motionCaption = caption, instruction, onNotice } = request;
    const prompts = [still ? caption : motionCaption, instruction, ''];
    const { states, truncated } = await runner.encodeText(prompts);
    if (still)
      for (const { prompt, length } of truncated)
        onNotice?.(
          `"${prompt.slice(0, 40)}…" has ${length} tokens; the text encoder reads ${states.shape[1]}, the rest was cut`,
        );
    const [said, told, nothing] = prompts.map((_, i) => rows(states, i, 1));
    return new Editor(runner, request, part, ports, { caption: said, instruction: told, nothing });
  }

  get needsFirst(): boolean {
    return this.#ports.first_frame.length > 0;
  }

  /** Clean latents [F, C, h, w] of the edited frames `image` [F, 3, H, W], the first being frame `start`. */
  async run(image: F32Array, start: number, first?: F32Array, known?: F32Array): Promise<F32Array> {
    const { model, latents } = this.#runner;
    const { plan, guidance, seed, onStep, size } = this.#request;
    const F = image.shape[0];
    const [H, W] = size.map((side) => side / latents.factor);
    const { schedule } = model;
    const { caption, instruction, nothing } = this.#texts;
    const feeds = (text: F32Array, own: F32Array, source: NDArray): Feeds => ({
      encoder_hidden_states: text,
      ...named(this.#ports.encoder_hidden_states, own),
      ...named(this.#ports.image, source),
      ...(first ? named(this.#ports.first_frame, first) : {}),
      ...named(this.#ports.task, this.#task()),
    });
    const shape = [latents.channels, H, W];
    const noises = Array.from(
      { length: F },
      (_, f) =>
        Rng.of(seed)
          .fork('frame', start + f)
          .normals([1, ...shape]).data,
    );
    return sample(this.#runner, {
      dims: { B: 1, F, H, W, L: caption.shape[1] },
      branches: {
        none: feeds(nothing, nothing, zeros(image.shape)),
        image: feeds(nothing, nothing, image),
        full: feeds(caption, instruction, image),
      },
      guidance: guidanceOf(guidance),
      plan,
      frame: start,
      noise: { dtype: 'f32', shape: [F, ...shape], data: joined(noises) },
      rng: Rng.of(seed).fork('fresh', start),
      ...(known && schedule ? { adjust: continuing(schedule, known) } : {}),
      ...(onStep ? { onStep: (done, of) => onStep(done, of, this.#part) } : {}),
    });
  }

  #task(): NDArray {
    const { task } = this.#request;
    if (task === undefined && this.#ports.task.length > 0)
      throw new AttuneError(
        'MISSING_PORT',
        `${this.#ports.task.join(', ')} must be fed: give the number of the task (--task).`,
      );
    return i64([task ?? 0], [1]);
  }
}

const guidanceOf = ({ text, image }: EditGuidance): Guidance => ({
  convention: 'uncond+s*delta',
  terms: [
    { base: 'none', cond: 'image', scale: image },
    { base: 'image', cond: 'full', scale: text },
  ],
});

const named = (ports: readonly string[], value: NDArray): Feeds =>
  Object.fromEntries(ports.map((port) => [port, value]));

/** Frames as one array [F, 3, H, W]; an error where one has another size. */
function stacked(frames: readonly Float32Array[], [H, W]: readonly [number, number]): F32Array {
  const odd = frames.find(({ length }) => length !== 3 * H * W);
  if (odd)
    throw new AttuneError(
      'SHAPE_MISMATCH',
      `editFrames: a frame of ${odd.length} values; [3, ${H}, ${W}] has ${3 * H * W}.`,
    );
  return { dtype: 'f32', shape: [frames.length, 3, H, W], data: joined(frames) };
}

function joined(arrays: readonly Float32Array[]): Float32Array {
  const whole = new Float32Array(arrays.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const array of arrays) {
    whole.set(array, at);
    at += array.length;
  }
  return whole;
}

/** `count` rows of the first axis. */
function rows({ data, shape }: F32Array, from: number, count: number): F32Array {
  const size = data.length / shape[0];
  return {
    dtype: 'f32',
    shape: [count, ...shape.slice(1)],
    data: data.subarray(from * size, (from + count) * size),
  };
}
