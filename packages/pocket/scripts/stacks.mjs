// A stack file ready to edit clips: openStacks(file, runtime), and editedClip of one of its sources.
import { readFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';

import {
  editFrames,
  findPlugins,
  ModelRunner,
  openSampler,
  openStack,
  parseYaml,
  PluginLoader,
  Sampling,
  StackFile,
} from '@attune/core';
import { rowsOf } from '@attune/eval';
import { SIDE } from '@attune/pocket';

const loader = new PluginLoader(findPlugins(join(import.meta.dirname, '..', '..', 'cli')));

/** The stack for clips and for stills, and how its file says that it is sampled (`steps` goes first). */
export async function openStacks(file, runtime, steps) {
  const path = resolve(file);
  const stack = parseYaml(StackFile, readFileSync(path, 'utf8'), path);
  const opened = async (how) =>
    new ModelRunner(await openStack(stack, dirname(path), loader, how), runtime);
  const models = { stack: await opened({}), stills: await opened({ stills: true }) };
  const sampling = Sampling.parse(stack.sampling ?? {});
  const sampler = await openSampler(sampling.sampler, loader);
  const plan = sampler(models.stack.model.schedule, Number(steps ?? sampling.steps));
  return {
    models,
    guidance: { text: sampling.guidance, image: sampling.image_guidance },
    plan,
    release: async () => {
      await models.stack.release();
      await models.stills.release();
    },
  };
}

/** The source [F, 3, 64, 64] edited, rounded to eight bits as any file has it. */
export async function editedClip({ models, guidance, plan }, edit, source, request) {
  const data = new Float32Array(source.data.length);
  const each = Array.from({ length: source.shape[0] }, (_, f) => rowsOf(source, f, f + 1).data);
  const all = editFrames(models, each, {
    instruction: edit.instruction,
    caption: edit.caption,
    motionCaption: edit.motionCaption,
    guidance,
    plan,
    size: [SIDE, SIDE],
    ...request,
  });
  let at = 0;
  for await (const frame of all) {
    data.set(
      frame.map((v) => Math.round(255 * Math.min(1, Math.max(0, v))) / 255),
      at,
    );
    at += frame.length;
  }
  return { ...source, data };
}
