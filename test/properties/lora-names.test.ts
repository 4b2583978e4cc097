/**
 * LoRAs under the names of the original UNet (kohya) and in the spelling of diffusers before 0.19, over random
 * UNets: what the stack then gives, against the backbone with the weights that they make.
 */

import { f32, type NDArray, Rng } from '@attune/engine';
import { expect, test } from 'vitest';

import { original, places } from './original-names.ts';
import { actsAs, scene } from './pairs.ts';
import { damaged, opened, type Tensors, verdictOn, written } from './wholes.ts';

const flat = (name: string): string => name.replaceAll('.', '_');

test('6 files of kohya under the names of the original UNet, text encoder included', async () => {
  for (let k = 0; k < 6; k++) {
    const rng = Rng.of(52).fork(k);
    const { attends, layers, backbone, made } = await scene(`ldm-${k}`, rng);
    const known = places(attends, layers);
    /** As kohya's trainer calls a layer where the model is loaded from an original checkpoint. */
    const module = (address: string): string => {
      const [net, ...rest] = address.split('.');
      const layer = rest.join('.');
      if (net === 'text_encoder') return `lora_te_${flat(layer)}`;
      return `lora_unet_${flat(original(layer, known)!)}`;
    };
    const tensors: Record<string, NDArray> = {};
    const scaled = made.map((pair) => {
      const [own, name] = [rng.fork('alpha', pair.address), module(pair.address)];
      tensors[`${name}.lora_down.weight`] = pair.down;
      tensors[`${name}.lora_up.weight`] = pair.up;
      const kind = own.int(4);
      if (kind === 0) return [pair, 1] as const;
      const alpha = kind === 1 ? 0 : 0.25 + 4 * own.uniform();
      tensors[`${name}.alpha`] = f32([alpha], []);
      return [pair, alpha === 0 ? 1 : Math.fround(alpha) / pair.rank] as const;
    });
    const write = (all: Tensors): string =>
      written(`ldm-${k}`, all, { ss_network_module: 'networks.lora' });
    const path = write(tensors);
    const { verdict, kind, dialect, modules } = await verdictOn(path, backbone);
    expect({ verdict, kind, dialect, matched: modules.matched }).toEqual({
      verdict: 'loadable',
      kind: 'lora',
      dialect: 'kohya',
      matched: made.length,
    });
    await actsAs(path, backbone, scaled);
    if (k > 1) continue;
    await damaged({
      rng: rng.fork('damage'),
      tensors,
      optional: /\.alpha$/,
      backbone,
      write,
      use: (from) => opened(backbone, { use: 'lora', from }),
      names: (key) => [
        key.slice(0, key.indexOf('.')),
        ...made.flatMap(({ address }) => (key.startsWith(`${module(address)}.`) ? [address] : [])),
      ],
    });
  }
});

/** The leaf and the module as diffusers wrote them before 0.19, in one of the ways it had. */
function before019(address: string, side: 'down' | 'up', rng: Rng): string {
  const attention = /^(.+)\.(to_q|to_k|to_v|to_out)(\.0)?$/.exec(address);
  if (attention) return `${attention[1]}.processor.${attention[2]}_lora.${side}.weight`;
  const words = /^(.+\.self_attn)\.(q|k|v|out)_proj$/.exec(address);
  if (words && rng.uniform() < 0.5) return `${words[1]}.to_${words[2]}_lora.${side}.weight`;
  if (address.startsWith('text_encoder.')) return `${address}.lora_linear_layer.${side}.weight`;
  return `${address}.lora.${side}.weight`;
}

test('6 files in the spelling of diffusers before 0.19, with and without the net’s name', async () => {
  for (let k = 0; k < 6; k++) {
    const rng = Rng.of(53).fork(k);
    const { backbone, made } = await scene(`old-${k}`, rng);
    const bare = k % 2 === 1; // the oldest files hold a UNet's attention alone
    const used = bare
      ? made.filter(({ address }) => /^unet\..*\.to_(q|k|v|out\.0)$/.test(address))
      : made;
    if (used.length === 0) continue;
    const name = (address: string, side: 'down' | 'up'): string => {
      const key = before019(address, side, rng.fork('spelling', address));
      return bare ? key.slice('unet.'.length) : key;
    };
    const tensors = Object.fromEntries(
      used.flatMap(({ address, down, up }) => [
        [name(address, 'down'), down],
        [name(address, 'up'), up],
      ]),
    );
    const write = (all: Tensors): string => written(`old-${k}`, all);
    const path = write(tensors);
    const { verdict, kind, dialect, modules } = await verdictOn(path, backbone);
    expect({ verdict, kind, dialect, matched: modules.matched }).toEqual({
      verdict: 'loadable',
      kind: 'lora',
      dialect: 'diffusers before 0.19',
      matched: used.length,
    });
    await actsAs(
      path,
      backbone,
      used.map((pair) => [pair, 1] as const),
    );
    if (k > 1) continue;
    await damaged({
      rng: rng.fork('damage'),
      tensors,
      backbone,
      write,
      use: (from) => opened(backbone, { use: 'lora', from }),
      names: (key) =>
        used.flatMap(({ address }) =>
          [name(address, 'down'), name(address, 'up')].includes(key)
            ? [address, address.slice(address.indexOf('.') + 1)]
            : [],
        ),
    });
  }
});
