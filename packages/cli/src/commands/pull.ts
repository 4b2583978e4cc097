/** attune pull: models and adapters from a hub into the cache that Hugging Face's tools share. */

import { hubReferenceText, parseHubReference, weightVariants } from '@attune/core';
import { AttuneError } from '@attune/engine';
import { Command, Option } from 'commander';

import { megabytes } from '../hub/blob.ts';
import { pull } from '../hub/pull.ts';
import { HubClient } from '../hub/request.ts';
import { hubSettings } from '../hub/settings.ts';
import { untilInterrupted } from '../interrupt.ts';
import { printable, progress, say, warn } from '../terminal.ts';
import { positive } from './arguments.ts';

interface Options {
  readonly variant?: string;
  readonly include: readonly string[];
  readonly exclude: readonly string[];
  readonly jobs: number;
  readonly json?: boolean;
}

const collect = (text: string, before: readonly string[]): readonly string[] => [...before, text];

export const pullCommand = (): Command =>
  new Command('pull')
    .description('download a model or an adapter from a hub into its cache')
    .argument('<reference>', 'hf:owner/name[@revision][:file or folder]')
    .addOption(
      new Option('--variant <name>', 'weights of this kind where a folder has them').choices(
        weightVariants.filter((name) => name !== ''),
      ),
    )
    .option('--include <glob>', 'these files, not what attune reads; may be repeated', collect, [])
    .option('--exclude <glob>', 'without these files; may be repeated', collect, [])
    .option('--jobs <n>', 'files at once', positive, 4)
    .option('--json', 'one JSON object on stdout')
    .addHelpText(
      'after',
      `
Where the cache is, which hub and as whom: HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE,
HTTPS_PROXY and NO_PROXY, as for Hugging Face's own tools.

Example:
  $ attune pull hf:guoyww/animatediff-motion-adapter-v1-5-2 --variant fp16`,
    )
    .action(pullAction);

async function pullAction(text: string, options: Options): Promise<void> {
  const reference = parseHubReference(text.startsWith('hf:') ? text : `hf:${text}`);
  const name = hubReferenceText(reference);
  const client = new HubClient(hubSettings());
  const { json, ...choice } = options;
  let kept = 0;
  const meter = speedometer();
  try {
    const pulled = await untilInterrupted(async (signal) => {
      try {
        return await pull({
          ...choice,
          reference,
          client,
          signal,
          onNotice: warn,
          onProgress: (done, total, fetched) => {
            kept = done;
            meter(done, total, fetched);
          },
        });
      } catch (error) {
        if (!signal.aborted) throw error;
        throw new AttuneError(
          'INTERRUPTED',
          `stopped; ${megabytes(kept)} are kept: run the same command to go on`,
        );
      }
    }, 'stopping');
    const { files, path, commit, offline } = pulled;
    const came = files.filter(({ fetched }) => fetched);
    if (json) console.log(JSON.stringify(pulled));
    else {
      const bytes = came.reduce((sum, file) => sum + file.bytes, 0);
      say(
        printable(
          offline
            ? `${name}: from the cache, commit ${commit}`
            : `${name}: ${files.length} files, ${came.length} of them fetched (${megabytes(bytes)}), commit ${commit}`,
        ),
      );
      console.log(path);
    }
  } finally {
    await client.close();
  }
}

/** Says how far it is and how long it will take: often on a terminal, every ten seconds elsewhere. */
function speedometer(): (done: number, total: number, fetched: number) => void {
  const every = process.stderr.isTTY ? 200 : 10_000;
  const began = performance.now();
  let said = began;
  return (done, total, fetched) => {
    const now = performance.now();
    if (now - said < every) return;
    said = now;
    const rate = fetched / ((now - began) / 1000);
    const left = rate > 0 ? `, ${Math.ceil((total - done) / rate)} s left` : '';
    progress(`${megabytes(done)} of ${megabytes(total)}, ${megabytes(Math.max(rate, 0))}/s${left}`);
  };
}
