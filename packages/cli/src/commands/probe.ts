/** attune probe: one part run on given tensors, to be compared with any other implementation. */

import { ModelRunner } from '@attune/core';
import { AttuneError, type NDArray, writeSafetensors } from '@attune/engine';
import { Command, Option } from 'commander';

import { checkPlace } from '../output.ts';
import { openWhole } from '../probe/model.ts';
import {
  type PartName,
  partNets,
  type Probed,
  probeOnce,
  probeRollout,
  probeSampling,
} from '../probe/run.ts';
import { readTensors, refuseNonFinite } from '../probe/tensors.ts';
import { type LockOptions, openStackSession } from '../stack.ts';
import { strengthsSaid } from '../strengths.ts';
import { say } from '../terminal.ts';
import {
  number,
  positive,
  type RuntimeChoice,
  runtimeOf,
  type StrengthChoice,
} from './arguments.ts';

interface Options extends LockOptions, RuntimeChoice, StrengthChoice {
  readonly inputs: string;
  readonly out: string;
  readonly part: PartName;
  readonly vjp?: string;
  readonly rollout?: boolean;
  readonly sample?: 'ddim';
  readonly steps?: number;
  readonly guidance: number;
  readonly json?: boolean;
}

export const probeCommand = (): Command =>
  new Command('probe')
    .description('run one part of a model or stack on given tensors')
    .argument('<stack|model>', 'a stack.yaml, a model folder or a bundled model')
    .requiredOption('--inputs <file>', 'safetensors: the part’s inputs and <adapter>.<port>')
    .requiredOption('--out <file>', 'safetensors to write')
    .addOption(
      new Option('--part <name>', 'what to run').choices(Object.keys(partNets)).default('unet'),
    )
    .option('--vjp <file>', 'cotangents named like the outputs: also write grad.<input>, …')
    .option('--rollout', 'DDIM from `latents` along `timesteps`')
    .addOption(
      new Option('--sample <sampler>', 'sample from `latents` with prompt_embeds').choices([
        'ddim',
      ]),
    )
    .option('--steps <n>', 'steps of --sample (default: 25)', positive)
    .option('--guidance <g>', 'scale of --sample: uncond + g · (cond − uncond)', number, 1)
    .option('--json', 'a JSON line on stdout')
    .addHelpText(
      'after',
      '\nExample:\n  $ attune probe stack.yaml --inputs in.safetensors --vjp cot.safetensors --out out.safetensors',
    )
    .action(probeAction);

async function probeAction(name: string, options: Options): Promise<void> {
  checkUsage(options);
  const session = await openStackSession(name, runtimeOf(options), options);
  const { loader, runtime } = session;
  const tensors = readTensors(options.inputs);
  const cotangents = options.vjp === undefined ? undefined : readTensors(options.vjp);
  const runner = new ModelRunner(await openWhole(session, loader), runtime);
  try {
    const probed = options.sample
      ? await probeSampling(runner, tensors, { ...options, steps: options.steps ?? 25 })
      : options.rollout
        ? await probeRollout(runner, tensors, cotangents)
        : await probeOnce(runner, options.part, tensors, cotangents);
    report(write(probed, name, options), options);
  } finally {
    await runner.release();
    await runtime.release();
  }
}

const wrong = (what: string) => new AttuneError('USAGE', what);

function checkUsage({ inputs, out, vjp, part, rollout, sample, steps }: Options): void {
  if (rollout && sample) throw wrong('--rollout and --sample exclude each other.');
  if (sample && vjp !== undefined) throw wrong('--sample has no gradients; use --rollout --vjp.');
  if ((rollout || sample) && part !== 'unet')
    throw wrong(`--${rollout ? 'rollout' : 'sample'} runs the unet, not the ${part}.`);
  if (steps !== undefined && !sample) throw wrong('--steps belongs to --sample.');
  checkPlace(out, 'file', vjp === undefined ? [inputs] : [inputs, vjp]);
}

function write(
  { outputs, grads }: Probed,
  name: string,
  { out, part, strength }: Options,
): Record<string, NDArray> {
  const tensors = {
    ...outputs,
    ...Object.fromEntries(Object.entries(grads).map(([key, value]) => [`grad.${key}`, value])),
  };
  for (const [key, value] of Object.entries(tensors)) refuseNonFinite(value, `the result ${key}`);
  const strengths = strengthsSaid(strength);
  writeSafetensors(out, tensors, {
    tool: 'attune probe',
    model: name,
    part,
    ...(strengths ? { strengths: JSON.stringify(strengths) } : {}),
  });
  return tensors;
}

function report(tensors: Readonly<Record<string, NDArray>>, { out, json }: Options): void {
  const shapes = Object.fromEntries(
    Object.entries(tensors).map(([key, { shape }]) => [key, shape]),
  );
  if (json) {
    console.log(JSON.stringify({ out, tensors: shapes }));
    return;
  }
  for (const [key, shape] of Object.entries(shapes)) console.log(`${key} [${shape}]`);
  say(`wrote ${out}`);
}
