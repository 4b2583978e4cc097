/**
 * The plain stack at its best: guidance and strengths of edit + video on validation clips, by the suite's
 * mean rank. What wins stands in stacks/plain.yaml, so that an aligned stack is compared with it.
 *
 *   node packages/pocket/scripts/tune-plain.mjs [--clips N] [--steps N] [--threads N]
 *     [--text 1.5,2,3] [--image 1,1.5] [--edit 1] [--video 1]
 */
import { join } from 'node:path';
import { parseArgs } from 'node:util';

import { findPlugins, ModelRunner, openStack, PluginLoader, StackFile } from '@attune/core';
import { OrtRuntime } from '@attune/engine';

const { values: flags } = parseArgs({
  options: {
    clips: { type: 'string', default: '21' },
    steps: { type: 'string', default: '8' },
    text: { type: 'string', default: '1.5,2,3' },
    image: { type: 'string', default: '1,1.5' },
    edit: { type: 'string', default: '1' },
    video: { type: 'string', default: '1' },
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
  for (const video of numbers(flags.video)) {
    const stack = StackFile.parse({
      backbone: 'pocket',
      adapters: [
        { use: 'edit', from: join(adapters, 'edit'), strength: edit },
        { use: 'video', from: join(adapters, 'video'), strength: video },
      ],
    });
    const models = {
      stack: new ModelRunner(await open(stack), runtime),
      stills: new ModelRunner(await open(stack, { stills: true }), runtime),
    };
    for (const guidance of numbers(flags.text))
      for (const image_guidance of numbers(flags.image))
        contestants.push({
          name: `text ${guidance}, image ${image_guidance}, edit × ${edit}, video × ${video}`,
          models,
          sampling: { steps: Number(flags.steps), guidance, image_guidance },
        });
  }

const suite = await loader.get('suites', 'pocket/pocket');
const options = suite.options.parse({
  split: 'validation',
  clips: Number(flags.clips),
  baselines: false,
});
const { text, order } = await suite.run(contestants, options, { runtime, open });
console.log(text);
console.log(`\nbest: ${order[0]}`);
