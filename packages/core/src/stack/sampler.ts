/** Samplers as stacks and commands name them. */

import { AttuneError } from '@attune/engine';

import type { PluginLoader } from '../plugins/loader.ts';
import type { Plan, Sampler } from '../schedule/sampler.ts';
import type { Sampling } from './schema.ts';

/** The sampler that `sampling` of a stack or a command names. Throws BAD_PLAN where its plan cannot be run. */
export async function openSampler(
  named: Sampling['sampler'],
  loader: PluginLoader,
): Promise<Sampler> {
  const entry = typeof named === 'string' ? { use: named } : named;
  const { kind, options } = await loader.configured('samplers', entry, `sampler ${entry.use}`);
  const sampler = kind.create(options);
  return (schedule, steps) => checkPlan(sampler(schedule, steps), entry.use);
}

function checkPlan(plan: Plan, use: string): Plan {
  let remembers = false;
  const fault = plan.steps.flatMap((step, i) => {
    const { memory } = step;
    const numbers = [step.t, step.cx, step.cp, step.cn, step.cm ?? 0];
    const forgotten = step.cm && !remembers ? [`step ${i} has nothing to remember`] : [];
    remembers = memory !== undefined;
    return [...numbers, memory?.cx ?? 0, memory?.cp ?? 0].every(Number.isFinite)
      ? forgotten
      : [`step ${i} is not finite`];
  })[0];
  if (fault === undefined && plan.steps.length > 0 && Number.isFinite(plan.start)) return plan;
  throw new AttuneError(
    'BAD_PLAN',
    `The sampler ${use} made a plan that cannot be run: ${fault ?? 'it has no steps or no finite start'}. Take another sampler, or other settings for it.`,
    { use },
  );
}
