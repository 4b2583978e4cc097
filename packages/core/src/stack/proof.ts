/** The load proof: every adapter of a stack changes what the stack makes, and how much. */

import { AttuneError, type Runtime } from '@attune/engine';

import type { Model } from '../models/model.ts';
import type { Proof } from './lock.ts';
import { blockOf, change, type Energy, Trial } from './trial.ts';

/** An output change that rounding alone could make. */
const NOTHING = 1e-6;

/**
 * The proof of each adapter by its name: the change of the outputs on a fixed small input when it is left
 * out, the change it makes alone, and the norm of its deltas by block. Throws NO_EFFECT, naming them, where
 * an adapter that does not train changes nothing.
 */
export async function prove(model: Model, runtime: Runtime): Promise<Record<string, Proof>> {
  const names = model.adapters.map(({ name }) => name);
  if (names.length === 0) return {};
  const trial = new Trial(model, runtime);
  try {
    const whole = await trial.run();
    const bare = await trial.run(new Set(names));
    const proofs: Record<string, Proof> = {};
    for (const name of names) {
      const only = names.length === 1;
      const without = only ? bare : await trial.run(new Set([name]));
      const alone = only
        ? whole
        : await trial.run(new Set(names.filter((other) => other !== name)));
      proofs[name] = {
        left_out: rounded(change(whole.outputs, without.outputs)),
        alone: rounded(change(alone.outputs, bare.outputs)),
        blocks: byBlock(whole.energies.filter(({ adapter }) => adapter === name)),
      };
    }
    refuseIdle(model, proofs);
    return proofs;
  } finally {
    await trial.release();
  }
}

function refuseIdle({ adapters }: Model, proofs: Readonly<Record<string, Proof>>): void {
  const idle = adapters.filter(
    ({ name, train }) => !train && Math.max(proofs[name].left_out, proofs[name].alone) < NOTHING,
  );
  if (idle.length === 0) return;
  const names = idle.map(({ name }) => name).join(', ');
  throw new AttuneError(
    'NO_EFFECT',
    `${names} ${idle.length === 1 ? 'changes' : 'change'} nothing: the output on a test input is the same without. The file is untrained or not for this backbone (attune inspect --deep says more); take it out of the stack, or set its strength to 0.`,
    { adapters: idle.map(({ name }) => name) },
  );
}

/** ‖gate · deltas‖ / ‖values‖ over the sites of each block. */
function byBlock(energies: readonly Energy[]): Record<string, number> {
  const sums = new Map<string, { delta: number; value: number }>();
  for (const { site, delta, value } of energies) {
    const block = blockOf(site);
    const so = sums.get(block) ?? { delta: 0, value: 0 };
    sums.set(block, { delta: so.delta + delta, value: so.value + value });
  }
  return Object.fromEntries(
    [...sums].map(([block, { delta, value }]) => [
      block,
      rounded(value === 0 ? 0 : Math.sqrt(delta / value)),
    ]),
  );
}

/** Three digits: what lies beyond differs between machines. */
const rounded = (value: number): number => Number(value.toPrecision(3));
