/**
 * A stack at its best: guidance and strengths of edit + video (and of an aligning LoRA) on validation clips, by
 * the suite's mean rank. What wins stands in stacks/plain.yaml and stacks/aligned.yaml, so that each is compared
 * with the other at its best.
 *
 *   node packages/pocket/scripts/tune.mjs [--align FILE] [--clips N] [--from N] [--steps N] [--threads N]
 *     [--text 1.5,2,3] [--image 1,1.5] [--edit 1] [--video 1] [--strength 1]
 */
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';

import {
  ddimPlan,
  findPlugins,
  ModelRunner,
  openStack,
  PluginLoader,
  StackFile,
} from '@attune/core';
import { OrtRuntime } from '@attune/engine';

const { values: flags } = parseArgs({
  options: {
    align: { type: 'string' },
    clips: { type: 'string', default: '21' },
    from: { type: 'string', default: '0' },
    steps: { type: 'string', default: '8' },
    text: { type: 'string', default: '1.5,2,3' },
    image: { type: 'string', default: '1,1.5' },
    edit: { type: 'string', default: '1' },
    video: { type: 'string', default: '1' },
    strength: { type: 'string', default: '1' },
    threads: { type: 'string', default: '1' },
  },
});
const numbers = (text) => text.split(',').map(Number);

const runtime = new OrtRuntime({ threads: Number(flags.threads) });
const adapters = join(import.meta.dirname, '..', 'adapters');
const loader = new PluginLoader(findPlugins(join(import.meta.dirname, '..', '..', 'cli')));
const open = (stack, how) => openStack(stack, process.cwd(), loader, how);

const contestants = [];
for (const edit of numbers(flags.edit))
  for (const video of numbers(flags.video))
    for (const align of flags.align ? numbers(flags.strength) : [undefined]) {
      const stack = StackFile.parse({
        backbone: 'pocket',
        adapters: [
          { use: 'edit', from: join(adapters, 'edit'), strength: edit },
          { use: 'video', from: join(adapters, 'video'), strength: video },
          ...(align === undefined
            ? []
            : [
                {
                  name: 'align',
                  use: 'lora',
                  from: resolve(flags.align),
                  strength: align,
                  stills: false,
                },
              ]),
        ],
      });
      const models = {
        stack: new ModelRunner(await open(stack), runtime),
        stills: new ModelRunner(await open(stack, { stills: true }), runtime),
      };
      for (const guidance of numbers(flags.text))
        for (const image_guidance of numbers(flags.image))
          contestants.push({
            name: `text ${guidance}, image ${image_guidance}, edit × ${edit}, video × ${video}${align === undefined ? '' : `, align × ${align}`}`,
            models,
            sampling: { steps: Number(flags.steps), guidance, image_guidance },
            sampler: ddimPlan,
          });
    }

const suite = await loader.get('suites', 'pocket/pocket');
const options = suite.options.parse({
  split: 'validation',
  clips: Number(flags.clips),
  from: Number(flags.from),
  baselines: false,
});
const { text, order } = await suite.run(contestants, options, { runtime, open });
console.log(text);
console.log(`\nbest: ${order[0]}`);
