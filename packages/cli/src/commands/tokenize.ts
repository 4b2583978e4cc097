/** attune tokenize: the ids a model's text encoder is fed. */

import { existsSync, statSync } from 'node:fs';
import { join } from 'node:path';

import { backbonePaths, loadModel, openStack, type PluginLoader, Tokenizer } from '@attune/core';
import { AttuneError } from '@attune/engine';
import { Command } from 'commander';

import { stackMedia } from '../stack-media.ts';
import { type LockOptions, openStackSession, type StackArgument } from '../stack.ts';
import { printable, warn } from '../terminal.ts';

interface Options extends LockOptions {
  readonly json?: boolean;
}

export const tokenizeCommand = (): Command =>
  new Command('tokenize')
    .description('show the token ids of texts')
    .argument(
      '<model>',
      'a stack.yaml, a model folder or file, a tokenizer folder or a bundled model',
    )
    .argument('<text...>', 'each text on its own')
    .option('--json', 'one JSON line per text on stdout')
    .addHelpText('after', '\nExample:\n  $ attune tokenize ./sd15 "a golden lion" --json')
    .action(tokenizeAction);

async function tokenizeAction(
  name: string,
  texts: readonly string[],
  { json, ...lock }: Options,
): Promise<void> {
  const session = await openStackSession(name, {}, lock);
  const tokenizer = await tokenizerOf(session, session.loader);
  for (const text of texts) {
    const { ids, length, truncated } = tokenizer.encode(text);
    const tokens = ids.map((id) => tokenizer.tokenOf(id) ?? '');
    if (json) console.log(JSON.stringify({ text, ids, tokens, length, truncated }));
    else {
      console.log(`${printable(text)}: ${length} tokens of at most ${tokenizer.maxLength}`);
      const used = Math.min(length, ids.length);
      for (let i = 0; i < used; i++) console.log(`${ids[i]}\t${printable(tokens[i])}`);
    }
    if (truncated)
      warn(
        `the text has ${length} tokens; the encoder reads ${tokenizer.maxLength}, so ${length - tokenizer.maxLength} are cut`,
      );
  }
}

async function tokenizerOf(
  { stack, folder }: StackArgument,
  loader: PluginLoader,
): Promise<Tokenizer> {
  if (stack.adapters.length > 0) {
    // Adapters may add words.
    const { tokenizer } = await openStack(stack, folder, loader, {
      ...stackMedia,
      onWarning: warn,
    });
    if (tokenizer) return tokenizer;
  }
  const { path, ...config } = await backbonePaths(stack, folder, loader);
  if (statSync(path, { throwIfNoEntry: false })?.isFile())
    return (await loadModel(path, config)).tokenizer!;
  const found = [join(path, 'tokenizer'), path].find((at) =>
    ['tokenizer.json', 'vocab.json'].some((file) => existsSync(join(at, file))),
  );
  if (found !== undefined) return Tokenizer.load(found);
  throw new AttuneError(
    'NO_TOKENIZER',
    existsSync(path)
      ? `${path} has no tokenizer: neither tokenizer/tokenizer.json nor tokenizer/vocab.json is there.`
      : `${stack.backbone} is neither a folder nor a bundled model (bundled: ${loader.ids('backbones').join(', ') || 'none'}).`,
    { path },
  );
}
