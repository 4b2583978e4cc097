/** Editing pictures and clips with a stack: what its ports are fed, window after window. */

import { AttuneError, type F32Array, Rng } from '@attune/engine';

import type { Plan } from '../schedule/sampler.ts';
import { Conditions } from './conditions.ts';
import { joined, rows, stacked } from './frames.ts';
import type { Guidance } from './guidance.ts';
import { type Join, joining, recorded } from './join.ts';
import type { ModelRunner } from './runner.ts';
import { type Adjust, sample } from './sample.ts';
import {
  type EditTexts,
  type LaterTexts,
  sharesOf,
  type Turn,
  turnsOf,
  type TurnShare,
} from './texts.ts';
import { type WindowSize, windows } from './window.ts';

/** What an edit is to do, and how. */
export interface EditRequest extends EditTexts {
  /** Other texts from later frames on; they come in over as many frames as windows share. */
  readonly later?: readonly LaterTexts[];
  /** What to steer away from. Default: the empty text. */
  readonly negative?: string;
  /** Number of the task, where an adapter has a port for it. */
  readonly task?: number;
  readonly guidance: EditGuidance;
  readonly plan: Plan;
  /** Frame n of a clip starts from the same noise whatever window it is in; noise that a sampler adds on the way is drawn per window. */
  readonly seed: number;
  /** Pixels [height, width]. */
  readonly size: readonly [number, number];
  readonly window: WindowSize;
  /** How overlapping windows become one clip. Default: `correct`. */
  readonly join?: Join;
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

/**
 * Edits frames [3, height, width] in [0, 1] one window after the other and yields them in order, as
 * the decoder gives them (about [0, 1]). A clip of one frame is a picture: it is edited by `stills`.
 * A window after the first continues the one before: the frames they share are joined as
 * `request.join` says, and the first of them is its first frame. The clip's own first frame is edited
 * by `stills` (EVE, arXiv 2403.09334, section 3.2), and so is a window's first frame under texts that
 * come in after it. Memory does not grow with the length.
 */
export async function* editFrames(
  models: EditModels,
  frames: Iterable<Float32Array> | AsyncIterable<Float32Array>,
  request: EditRequest,
): AsyncGenerator<Float32Array> {
  const { stack, stills } = models;
  const mixes = stack.model.adapters.some(({ mixesFrames }) => mixesFrames);
  const { size, overlap } = mixes ? request.window : { size: request.window.size, overlap: 0 };
  const turns = turnsOf(request, request.later);
  const clip = await Editor.of(stack, request, turns, 'frames');
  const still = await Editor.of(stills, request, turns, 'first frame');
  const { join = 'correct' } = request;
  const { schedule } = stack.model;
  // Fused frames change with the next window, so they wait for it.
  const waits = join === 'correct' ? 0 : overlap;
  let count = 0;
  let before: { readonly latents: F32Array; readonly trail: readonly F32Array[] } | undefined;
  for await (const { frames: some, start, seen } of windows(frames, { size, overlap })) {
    const image = stacked(some, request.size);
    count = start + some.length;
    const fade = request.window.overlap;
    const shares = sharesOf(turns, start, some.length, fade);
    const trail: F32Array[] = [];
    const shared = (made: F32Array): F32Array => rows(made, made.shape[0] - seen, seen);
    const known = before && seen > 0 ? shared(before.latents) : undefined;
    const adjust =
      before && known && schedule
        ? joining(join, schedule, { known, trail: before.trail.map(shared), overlap })
        : undefined;
    const keep = join !== 'correct' && schedule ? recorded(schedule, adjust, trail) : adjust;
    const firsts: F32Array[] = [];
    if (start === 0 && some.length === 1) {
      before = { latents: await still.run(image, start, shares), trail };
    } else {
      if (clip.needsFirst)
        for (const { turn, shares: own } of shares)
          firsts.push(
            known && shares.every((other) => other.shares[0] <= own[0])
              ? rows(known, 0, 1)
              : await still.run(rows(image, 0, 1), start, [{ turn, shares: [1] }]),
          );
      before = { latents: await clip.run(image, start, shares, firsts, keep), trail };
    }
    const from = start === 0 ? 0 : seen - waits;
    yield* decoded(stack, rows(before.latents, from, Math.max(0, some.length - waits - from)));
  }
  for (const { from } of turns.slice(1).filter((turn) => turn.from >= count))
    request.onNotice?.(
      `the texts from frame ${from} on were not used: the clip has ${count} frames`,
    );
  if (before && waits > 0) {
    const { latents } = before;
    const left = Math.min(waits, latents.shape[0]);
    yield* decoded(stack, rows(latents, latents.shape[0] - left, left));
  }
}

/** Latents [F, C, h, w] as frames, one after the other. */
async function* decoded(runner: ModelRunner, latents: F32Array): AsyncGenerator<Float32Array> {
  if (latents.shape[0] === 0) return;
  const { data, shape } = await runner.decodeLatents(latents);
  const frame = data.length / shape[0];
  for (let at = 0; at < data.length; at += frame) yield data.slice(at, at + frame);
}

/** One stack with its prompts encoded. */
class Editor {
  readonly #runner: ModelRunner;
  readonly #request: EditRequest;
  readonly #part: EditPart;
  readonly #conditions: Conditions;

  private constructor(
    runner: ModelRunner,
    request: EditRequest,
    part: EditPart,
    conditions: Conditions,
  ) {
    this.#runner = runner;
    this.#request = request;
    this.#part = part;
    this.#conditions = conditions;
  }

  static async of(
    runner: ModelRunner,
    request: EditRequest,
    turns: readonly Turn[],
    part: EditPart,
  ): Promise<Editor> {
    const still = part === 'first frame';
    const texts = turns.map(({ caption, motionCaption, instruction }) => ({
      prompt: [instruction],
      instruction: [instruction],
      caption: [caption],
      motion_caption: [still ? caption : motionCaption],
      negative: [request.negative ?? ''],
    }));
    const conditions = await Conditions.of(runner, texts);
    if (!conditions.reads('input', 'input_first'))
      throw new AttuneError(
        'NO_EDIT_ADAPTER',
        'No adapter of the stack reads a source image (a port fed the input), so nothing of the input would reach the model; add an edit adapter.',
      );
    if (still)
      for (const { prompt, length } of conditions.truncated)
        request.onNotice?.(
          `"${prompt.slice(0, 40)}…" has ${length} tokens; the text encoder reads ${conditions.limit}, the rest was cut`,
        );
    return new Editor(runner, request, part, conditions);
  }

  get needsFirst(): boolean {
    return this.#conditions.reads('first_frame');
  }

  /**
   * Clean latents [F, C, h, w] of the edited frames `input` [F, 3, H, W], the first being frame `start`;
   * `firsts` holds the edited first frame for each of the turns that take part.
   */
  async run(
    input: F32Array,
    start: number,
    turns: readonly TurnShare[],
    firsts: readonly F32Array[] = [],
    adjust?: Adjust,
  ): Promise<F32Array> {
    const { latents } = this.#runner;
    const { plan, guidance, seed, onStep, size, task } = this.#request;
    const [F] = input.shape;
    const [H, W] = size.map((side) => side / latents.factor);
    const dims = { B: 1, F, H, W, L: this.#conditions.limit };
    const conditions = [];
    for (const [i, { turn, shares }] of turns.entries()) {
      const given = {
        dims,
        input,
        ...(firsts[i] ? { firstFrame: firsts[i] } : {}),
        ...(task === undefined ? {} : { task }),
      };
      conditions.push({ branches: await this.#conditions.branches(turn, given, less), shares });
    }
    const shape = [latents.channels, H, W];
    const noises = Array.from(
      { length: F },
      (_, f) =>
        Rng.of(seed)
          .fork('frame', start + f)
          .normals([1, ...shape]).data,
    );
    return sample(this.#runner, {
      dims,
      branches: conditions[0].branches,
      others: conditions.slice(1),
      guidance: guidanceOf(guidance),
      plan,
      frame: start,
      noise: { dtype: 'f32', shape: [F, ...shape], data: joined(noises) },
      rng: Rng.of(seed).fork('fresh', start),
      ...(adjust ? { adjust } : {}),
      ...(onStep ? { onStep: (done, of) => onStep(done, of, this.#part) } : {}),
    });
  }
}

/** What each branch does without. */
const less = { none: { words: true, input: true }, image: { words: true }, full: {} };

const guidanceOf = ({ text, image }: EditGuidance): Guidance => ({
  convention: 'uncond+s*delta',
  terms: [
    { base: 'none', cond: 'image', scale: image },
    { base: 'image', cond: 'full', scale: text },
  ],
});
