/** CLIP's own vocabulary (OpenAI, MIT licence): what checkpoints without a tokenizer were trained with. */

import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gunzipSync } from 'node:zlib';

import { byteLetters, type Vocabulary, WORD_END } from './bpe.ts';
import { clipOptions } from './tokenizer-files.ts';
import { Tokenizer } from './tokenizer.ts';

/** The package's file of merges, whether this runs from its sources or built. */
function mergesFile(): string {
  let folder = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(folder, 'package.json'))) folder = dirname(folder);
  return join(folder, 'assets', 'clip-merges.txt.gz');
}

/** Ids are in the order: letters (printable bytes first), letters that end a word, merges, the markers. */
function vocabulary(): Vocabulary {
  const text = gunzipSync(readFileSync(mergesFile())).toString('utf8');
  const merges = text
    .trimEnd()
    .split('\n')
    .map((line) => line.split(' ') as [string, string]);
  const letters = byteLetters.toSorted((a, b) => a.codePointAt(0)! - b.codePointAt(0)!);
  const tokens = [
    ...letters,
    ...letters.map((letter) => letter + WORD_END),
    ...merges.map(([left, right]) => left + right),
    clipOptions.bos,
    clipOptions.eos,
  ];
  return { ids: new Map(tokens.map((token, id) => [token, id])), merges };
}

/** CLIP's tokenizer with 77 tokens a row. Stable Diffusion 1 pads with the end token, 2 with "!". */
export const clipTokenizer = (pad: string = clipOptions.pad): Tokenizer =>
  new Tokenizer(vocabulary(), { pad });
