// Pictures of captions, as the gates make them.
import { ddimPlan, sample } from '@attune/core';
import { SIDE } from '@attune/pocket';

const BATCH = 25;
const PIXELS = 3 * SIDE * SIDE;

/**
 * Frames [3, 64, 64] in [0, 1], rounded to 8 bits as any picture that leaves the model; what `judge`
 * sees of each batch goes to `onSeen`, with the index of its first picture.
 */
export async function picturesOf(runner, captions, { guidance, steps, noise, judge, onSeen }) {
  const { channels, factor } = runner.latents;
  const side = SIDE / factor;
  const plan = ddimPlan(runner.model.schedule, steps);
  const frames = [];
  for (let from = 0; from < captions.length; from += BATCH) {
    const some = captions.slice(from, from + BATCH);
    const B = some.length;
    const text = (await runner.encodeText(some)).states;
    const none = (await runner.encodeText(some.map(() => ''))).states;
    const latents = await sample(runner, {
      dims: { B, F: 1, H: side, W: side, L: text.shape[1] },
      branches: { text: { encoder_hidden_states: text }, none: { encoder_hidden_states: none } },
      guidance: {
        convention: 'uncond+s*delta',
        terms: [{ base: 'none', cond: 'text', scale: guidance }],
      },
      plan,
      noise: noise.fork('noise', from).normals([B, channels, side, side]),
    });
    const { data, shape } = await runner.decodeLatents(latents);
    const unit = data.map((v) => Math.round(255 * Math.min(1, Math.max(0, (v + 1) / 2))) / 255);
    onSeen(await judge.see({ dtype: 'f32', shape, data: unit }), from);
    for (let k = 0; k < B; k++) frames.push(unit.slice(k * PIXELS, (k + 1) * PIXELS));
  }
  return frames;
}
