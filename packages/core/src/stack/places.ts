/** Where the adapters of a stack act, and what of their order and their strengths that tells. */

import { nearest, type Tensor } from '@attune/engine';

import { traceNet } from '../adapters/compose.ts';
import { hasAddresses, idleAddresses, partsAt } from '../adapters/strength.ts';
import { nominalDims } from '../models/net.ts';
import type { Finding } from './check.ts';
import type { StackParts } from './open.ts';

/** Pairs whose order counts, and strengths of which something does nothing. Traces all nets. */
export function checkPlaces(stack: StackParts): Finding[] {
  const places = placesOf(stack);
  return [...orders(stack, places), ...idle(stack, places), ...meaningless(stack, places)];
}

/** Strengths for addresses at which their adapter does not act. Traces all nets, where a strength names one. */
export function checkAddresses(stack: StackParts): Finding[] {
  return stack.model.adapters.some(hasAddresses) ? idle(stack, placesOf(stack)) : [];
}

/** Where each adapter acts, as `kind:address`, and its gate there. */
type Places = ReadonlyMap<string, ReadonlyMap<string, Tensor | undefined>>;

function placesOf({ model }: StackParts): Places {
  const places = new Map<string, Map<string, Tensor | undefined>>();
  for (const net of Object.keys(model.nets)) {
    const { trace } = traceNet(model, { net, dims: nominalDims });
    for (const { adapter, site, gate } of trace.added) {
      const own = places.get(adapter) ?? new Map<string, Tensor | undefined>();
      places.set(adapter, own.set(site, gate));
    }
  }
  return places;
}

/** Strengths for addresses at which their adapter does not act. */
function idle({ model }: StackParts, places: Places): Finding[] {
  return model.adapters.flatMap((adapter) => {
    const { name } = adapter;
    const acts = [...(places.get(name)?.keys() ?? [])].map(addressOf);
    // One that is off everywhere is not traced.
    if (acts.length === 0) return [];
    const known = new Set(acts.flatMap((address) => beginnings(address)));
    return idleAddresses(adapter, acts).map((address): Finding => ({
      level: 'warning',
      topic: 'strength',
      text: `the strength of ${name} at ${address} changes nothing: ${name} acts at no address that begins so`,
      fix: `name a place where it acts (nearest: ${nearest(address, known).join(', ')})`,
    }));
  });
}

const addressOf = (site: string): string => site.slice(site.indexOf(':') + 1);

const lacking = {
  mask: { part: 'mask', lack: 'pixels' },
  frames: { part: 'factors by frame', lack: 'frames' },
  steps: { part: 'changes over the steps', lack: 'times' },
} as const;

/** Masks at places without pixels, factors by frame in nets without frames, changes over the steps where there are none. */
function meaningless({ model }: StackParts, places: Places): Finding[] {
  return model.adapters.flatMap((adapter) => {
    const found = [...(places.get(adapter.name) ?? [])].flatMap(([site, gate]) => {
      const address = addressOf(site);
      return partsAt(adapter, address, gate).map(([part, means]) => ({ part, means, address }));
    });
    return (['mask', 'frames', 'steps'] as const).flatMap((key): Finding[] => {
      const asked = found.filter(({ part }) => part === key);
      const without = asked.filter(({ means }) => !means).map(({ address }) => address);
      if (without.length === 0) return [];
      const { part, lack } = lacking[key];
      const where =
        asked.length === without.length ? 'all' : `${without.length} of the ${asked.length}`;
      return [
        {
          level: 'warning',
          topic: 'strength',
          text: `the ${part} of ${adapter.name} ${key === 'mask' ? 'means' : 'mean'} nothing at ${where} places where it acts, which have no ${lack} (${alike(without)}): there the rest of its strength applies alone`,
          fix: `give ${adapter.name} another strength at these places, if that is not what you want`,
        },
      ];
    });
  });
}

/** Addresses as patterns, with how many each stands for: `unet.up_blocks.*.attn2.to_k × 4`. */
function alike(addresses: readonly string[]): string {
  const counts = new Map<string, number>();
  for (const address of addresses) {
    const pattern = address.replaceAll(/(?<=\.)\d+(?=\.|$)/g, '*');
    counts.set(pattern, (counts.get(pattern) ?? 0) + 1);
  }
  return [...counts].map(([pattern, n]) => (n === 1 ? pattern : `${pattern} × ${n}`)).join(', ');
}

/** unet, unet.mid_block, … up to the whole address. */
const beginnings = (address: string): string[] => {
  const words = address.split('.');
  return words.map((_, i) => words.slice(0, i + 1).join('.'));
};

/** Pairs that act at the same places and may not be swapped. */
function orders({ model }: StackParts, places: Places): Finding[] {
  const { adapters } = model;
  return adapters.flatMap((second, i) =>
    adapters.slice(0, i).flatMap((first): Finding[] => {
      if (first.commutes && second.commutes) return [];
      const shared = [...(places.get(first.name)?.keys() ?? [])].filter((site) =>
        places.get(second.name)?.has(site),
      );
      if (shared.length === 0) return [];
      return [
        {
          level: 'warning',
          topic: 'order',
          text: `${first.name} and ${second.name} both act at ${shared.length} ${shared.length === 1 ? 'place' : 'places'} (first ${shared[0]}) and may not be swapped: ${second.name} sees what ${first.name} made`,
          fix: `keep the order in which they were trained together, or put ${second.name} before ${first.name} if that was it`,
        },
      ];
    }),
  );
}
