// Pictures of captions, as the gates make them.
import { generate } from '@attune/core';
import { SIDE } from '@attune/pocket';

const BATCH = 25;
const PIXELS = 3 * SIDE * SIDE;

/**
 * Frames [3, 64, 64] in [0, 1], rounded to 8 bits as any picture that leaves the model; what `judge`
 * sees of each batch goes to `onSeen`, with the index of its first picture.
 */
export async function picturesOf(runner, captions, { guidance, steps, noise, judge, onSeen }) {
  const frames = [];
  for (let from = 0; from < captions.length; from += BATCH) {
    const some = captions.slice(from, from + BATCH);
    const rng = noise.fork('noise', from);
    const { latents } = await generate(runner, some, { guidance, steps, rng });
    const { data, shape } = await runner.decodeLatents(latents);
    const unit = data.map((v) => Math.round(255 * Math.min(1, Math.max(0, v))) / 255);
    onSeen(await judge.see({ dtype: 'f32', shape, data: unit }), from);
    for (let k = 0; k < some.length; k++) frames.push(unit.slice(k * PIXELS, (k + 1) * PIXELS));
  }
  return frames;
}
