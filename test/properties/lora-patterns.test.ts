/**
 * PEFT's patterns of rank and alpha as regular expressions, several of which fit the same modules, over random
 * UNets: the first in the order of the config counts, as in PEFT's own `get_pattern_key`.
 */

import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { type NDArray, Rng, writeSafetensors } from '@attune/engine';
import { expect, test } from 'vitest';

import { actsAs, scene } from './pairs.ts';
import { at, damaged, opened, type Tensors, verdictOn, written } from './wholes.ts';

const expressions = [
  'to_[qk]',
  'to_out.0',
  'attn2\\..*',
  'mid_block\\..*',
  '.*\\.conv[12]',
  'proj_(in|out)',
  'down_blocks\\.0\\..*',
  'up_blocks.*',
  'ff\\.net\\.(0\\.proj|2)',
  '(q|k|v)_proj',
  'mlp.*',
  'layers\\.1\\..*',
];

type Patterns = Readonly<Record<string, number>>;

/** Some of the expressions, in a random order, each with a number. */
const patterns = (rng: Rng): Patterns => {
  const order = rng.permutation(expressions.length).slice(0, 2 + rng.int(6));
  return Object.fromEntries(order.map((i) => [expressions[i], 1 + rng.int(8)]));
};

/** What a table says of a module. */
const told = (table: Patterns, module: string): number | undefined =>
  Object.entries(table).find(([key]) => new RegExp(`^(.*\\.)?(${key})$`).test(module))?.[1];

function config(rng: Rng) {
  return {
    peft_type: 'LORA',
    r: 1 + rng.int(3),
    lora_alpha: 1 + rng.int(8),
    rank_pattern: patterns(rng.fork('ranks')),
    alpha_pattern: patterns(rng.fork('alphas')),
    use_rslora: rng.uniform() < 0.5,
  };
}

const forms: Readonly<
  Record<string, { readonly dialect: 'peft' | 'diffusers'; readonly nets: readonly string[] }>
> = {
  'a folder for the UNet': { dialect: 'peft', nets: ['unet'] },
  'a file with a header for both nets': { dialect: 'diffusers', nets: ['unet', 'text_encoder'] },
};

test.each(Object.entries(forms))('4 of %s', async (form, { dialect, nets }) => {
  for (let k = 0; k < 4; k++) {
    const rng = Rng.of(60).fork(form, k);
    const configs = Object.fromEntries(nets.map((net) => [net, config(rng.fork(net))]));
    /** Of a module: its net's config, and its name there. */
    const within = (address: string) => {
      const dot = address.indexOf('.');
      return { own: configs[address.slice(0, dot)], module: address.slice(dot + 1) };
    };
    const name = `patterns-${dialect}-${k}`;
    const { backbone, made } = await scene(name, rng.fork('scene'), (address) => {
      const { own, module } = within(address);
      return own ? (told(own.rank_pattern, module) ?? own.r) : 1;
    });
    const used = made.filter(({ address }) => within(address).own);
    const named = rng.uniform() < 0.5 ? '.default' : '';
    const key = (address: string, side: 'A' | 'B'): string =>
      dialect === 'peft'
        ? `base_model.model.${within(address).module}.lora_${side}${named}.weight`
        : `${address}.lora_${side}.weight`;
    const tensors: Record<string, NDArray> = {};
    const scaled = used.map((pair) => {
      tensors[key(pair.address, 'A')] = pair.down;
      tensors[key(pair.address, 'B')] = pair.up;
      const { own, module } = within(pair.address);
      const alpha = told(own.alpha_pattern, module) ?? own.lora_alpha;
      return [pair, alpha / (own.use_rslora ? Math.sqrt(pair.rank) : pair.rank)] as const;
    });
    const write = (all: Tensors): string => {
      if (dialect === 'peft') {
        mkdirSync(at(`${name}.peft`), { recursive: true });
        const json = JSON.stringify(configs.unet);
        writeFileSync(join(at(`${name}.peft`), 'adapter_config.json'), json);
        writeSafetensors(join(at(`${name}.peft`), 'adapter_model.safetensors'), all);
        return at(`${name}.peft`);
      }
      const header = Object.entries(configs).flatMap(([net, own]) =>
        Object.entries(own).map(([leaf, value]) => [`${net}.${leaf}`, value]),
      );
      const lora_adapter_metadata = JSON.stringify(Object.fromEntries(header));
      return written(name, all, { lora_adapter_metadata });
    };
    const path = write(tensors);
    expect(await verdictOn(path, backbone)).toMatchObject({
      verdict: 'loadable',
      kind: 'lora',
      dialect,
      modules: { matched: used.length },
      ranks: Object.fromEntries(
        used.map(({ address, rank }) => [
          dialect === 'peft' ? `base_model.model.${within(address).module}` : address,
          rank,
        ]),
      ),
    });
    await actsAs(path, backbone, scaled);
    if (k > 0) continue;
    await damaged({
      rng: rng.fork('damage'),
      tensors,
      backbone,
      write,
      use: (from) => opened(backbone, { use: 'lora', from }),
      names: (own) =>
        used.flatMap(({ address }) =>
          [key(address, 'A'), key(address, 'B')].includes(own)
            ? [`${address}.weight`, `base_model.model.${within(address).module}.weight`]
            : [],
        ),
    });
  }
});
