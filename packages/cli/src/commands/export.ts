/** attune export: a stack for other programs, kept only where it runs as it does here. */

import { existsSync, readdirSync } from 'node:fs';
import { basename, extname } from 'node:path';

import { AttuneError } from '@attune/engine';
import { Command, Option } from 'commander';

import { figure } from '../export/card.ts';
import type { StoredType } from '../export/graph.ts';
import { isExport } from '../export/manifest.ts';
import { exportMerged } from '../export/merged.ts';
import { exportOnnx, stopIf } from '../export/onnx.ts';
import { untilInterrupted } from '../interrupt.ts';
import { badOutput } from '../media/errors.ts';
import { checkPlace, staged } from '../output.ts';
import { type PartName, partNets } from '../probe/run.ts';
import { type LockOptions, openStackSession, type StackSession } from '../stack.ts';
import { printable, say, warn } from '../terminal.ts';
import { positive, type RuntimeChoice, runtimeOf, type StrengthChoice } from './arguments.ts';

interface Options extends LockOptions, RuntimeChoice, StrengthChoice {
  readonly out: string;
  readonly part?: PartName | 'all';
  readonly format: string;
  readonly to?: string;
  readonly batch?: number;
  readonly frames?: number;
  readonly height?: number;
  readonly width?: number;
  readonly tokens?: number;
  readonly weights?: StoredType;
  readonly external?: boolean;
  readonly liveStrengths?: boolean;
  readonly force?: boolean;
  readonly json?: boolean;
}

export const exportCommand = (): Command =>
  new Command('export')
    .description('write a stack for other programs, and check that it does the same there')
    .argument('<stack|model>', 'a stack.yaml, a model folder or a bundled stack')
    .requiredOption('-o, --out <folder>', 'where to write: models, manifest.json and a model card')
    .option(
      '--format <name>',
      'onnx, or merged-<kind>: the adapters of a kind as one (merged-lora)',
      'onnx',
    )
    .addOption(
      new Option('--part <name>', 'what to write as ONNX (default: unet)').choices([
        ...Object.keys(partNets),
        'all',
      ]),
    )
    .option(
      '--to <dialect>',
      'for merged-lora: kohya, diffusers, peft or animatediff (default: kohya)',
    )
    .option('--batch <n>', 'clips or pictures at once (default: 1)', positive)
    .option('--frames <n>', 'frames of a clip (default: what the stack was made for)', positive)
    .option('--height <px>', 'of the pictures (default: what the backbone was made for)', positive)
    .option('--width <px>', 'the same', positive)
    .option('--tokens <n>', 'length of a text (default: what the tokenizer makes)', positive)
    .addOption(
      new Option('--weights <type>', 'how they are stored (default: f32)').choices(['f32', 'f16']),
    )
    .option('--external', 'weights in a file of their own (big models always)')
    .option('--live-strengths', 'strengths as inputs of the model')
    .option('--force', 'replace an export that is there')
    .option('--json', 'one JSON object on stdout')
    .addHelpText(
      'after',
      '\nExamples:\n  $ attune export pocket/aligned -o aligned --part all --frames 8\n  $ attune export stack.yaml -o looks --format merged-lora --to diffusers',
    )
    .action(exportAction);

async function exportAction(name: string, options: Options): Promise<void> {
  const { out, format, force = false, json } = options;
  const merging = /^merged-(?<id>.+)$/.exec(format)?.groups?.id;
  checkUsage(options, merging !== undefined);
  checkFolder(out, force);
  const session = await openStackSession(name, runtimeOf(options), options);
  const title = /\.ya?ml$/.test(name) || existsSync(name) ? basename(name, extname(name)) : name;
  const write = async (folder: string, signal: AbortSignal): Promise<Report> => {
    const report =
      merging === undefined
        ? await writeOnnx(session, title, folder, { ...options, signal })
        : await writeMerged(session, title, folder, { id: merging, to: options.to });
    stopIf(signal);
    return report;
  };
  try {
    const { facts, lines } = await untilInterrupted((signal) =>
      staged(out, (folder) => write(folder, signal), { replace: force }),
    );
    if (json) console.log(JSON.stringify({ path: out, ...facts }));
    else for (const line of [...lines, `wrote ${out}`]) say(printable(line));
  } finally {
    await session.runtime.release();
  }
}

/** What an export came to: for programs, and for people. */
interface Report {
  readonly facts: object;
  readonly lines: readonly string[];
}

async function writeMerged(
  session: StackSession,
  title: string,
  folder: string,
  request: { readonly id: string; readonly to: string | undefined },
): Promise<Report> {
  const facts = await exportMerged(session, title, folder, request);
  const { file, adapters, others, error, effect } = facts;
  if (others.length) warn(`not in the file, being of other kinds: ${others.join(', ')}`);
  return {
    facts,
    lines: [
      `${file}: ${adapters.join(' + ')}; the model's output differs by ${figure(error)} from the stack's, and would by ${figure(effect)} without them`,
    ],
  };
}

async function writeOnnx(
  session: StackSession,
  title: string,
  folder: string,
  { signal, ...options }: Options & { readonly signal: AbortSignal },
): Promise<Report> {
  const { part = 'unet', weights = 'f32', external = false, liveStrengths = false } = options;
  const { batch, frames, height, width, tokens } = options;
  const asked = Object.entries({ batch, frames, height, width, tokens });
  const written = await exportOnnx(session, title, folder, {
    part,
    weights,
    external,
    liveStrengths,
    signal,
    sizes: Object.fromEntries(asked.filter(([, value]) => value !== undefined)),
  });
  const parts = written.map(({ graph, checked: { error, rounding } }) => ({
    part: graph.part.name,
    file: graph.file,
    data: graph.data ?? null,
    error,
    rounding,
  }));
  return {
    facts: { parts },
    lines: parts.map(
      ({ file, data, error, rounding }) =>
        `${file}${data ? ` + ${data}` : ''}: differs by ${figure(error)} from attune's own run${rounding > 0 ? `; rounding its weights changes the output by ${figure(rounding)}` : ''}`,
    ),
  };
}

const wrong = (what: string) => new AttuneError('USAGE', what);

/** Options of one format that were given with the other. */
function checkUsage(options: Options, merging: boolean): void {
  const { format, to } = options;
  if (!merging && format !== 'onnx')
    throw wrong(`--format ${format} is none; use onnx, or merged-<kind> as in merged-lora.`);
  if (!merging && to !== undefined) throw wrong('--to belongs to --format merged-<kind>.');
  const own = ['part', 'batch', 'frames', 'height', 'width', 'tokens', 'weights', 'external'];
  const stray = [...own, 'liveStrengths'].find((key) => key in options);
  if (merging && stray)
    throw wrong(
      `--${stray.replace('S', '-s')} belongs to --format onnx; merged adapters have no such thing.`,
    );
}

/** Refuses a place that cannot become the export, before anything is read. */
function checkFolder(out: string, force: boolean): void {
  if (existsSync(out) && !force)
    throw new AttuneError('EXISTS', `${out} exists: choose another name or pass --force.`);
  checkPlace(out, 'folder');
  if (existsSync(out) && readdirSync(out).length > 0 && !isExport(out))
    throw badOutput(out, 'it is no export, so --force does not replace it', 'use another name');
}
