/** What a verdict says beside loadable or refused: what is taken for granted, by which name, and what does nothing. */

import { join } from 'node:path';

import { findPlugins, PluginLoader } from '@attune/core';
import { expect, test } from 'vitest';

import { inspect, type Verdict } from '../packages/cli/src/inspect/verdict.ts';

const fixtures = 'test/parity/fixtures';
const loader = new PluginLoader(findPlugins('packages/cli'));

const verdictOn = (path: string): Promise<Verdict> => inspect(path, { loader });

test.each(['compose/pocket/video', 'checkpoints/motion.ckpt'])(
  'how the group norms of motion modules are taken, and the option that takes them otherwise: %s',
  async (file) => {
    const { verdict, chosen } = await verdictOn(join(fixtures, file));
    expect(verdict).toBe('loadable');
    expect(chosen).toMatch(/over all frames of a clip, as diffusers/);
    expect(chosen).toMatch(/norm: per_frame in the stack entry/);
  },
);
