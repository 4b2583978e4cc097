/**
 * Writes the tables of docs/formats.md from what the code knows: each kind's detector asked about its samples,
 * the layouts of whole models, real files of each container opened. `--check` only says whether they are up to
 * date (exit 1).
 *
 *   pnpm docs:formats [page] [--check]
 */

import { readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';

import { foreign, recogniseFile } from '@attune/cli';
import {
  checkpointLayout,
  findPlugins,
  formatsOf,
  PluginLoader,
  readAdapterFile,
} from '@attune/core';

const root = join(import.meta.dirname, '..');
const { values, positionals } = parseArgs({
  options: { check: { type: 'boolean' } },
  allowPositionals: true,
});
const page = positionals[0] ?? join(root, 'docs/formats.md');
const marks = ['<!-- tables: written by scripts/formats.mjs -->', '<!-- end of tables -->'];

/** A real file of each container. */
const containers = [
  ['safetensors', 'checkpoints/bare.safetensors'],
  ['safetensors with 8-bit floats (F8_E4M3, F8_E5M2)', 'checkpoints/eights.safetensors'],
  ['safetensors in shards, by their index', 'unet/sd2/unet'],
  ['torch.save, a zip archive (.ckpt, .pt, .pth, .bin)', 'checkpoints/bare.pth'],
  ['the same, wrapped (`state_dict`)', 'checkpoints/wrapped.ckpt'],
  ['torch.save with 8-bit floats', 'checkpoints/eights.pt'],
  ['torch.save before 1.6', 'checkpoints/legacy.pt'],
  ['a bare pickle', 'checkpoints/pickle.pkl'],
  ['a pickle that would run code', 'checkpoints/code.pt'],
  [
    'a pickle with a ParameterDict, as the first textual inversions are',
    'checkpoints/embedding.pt',
  ],
  ['a pickle with an object of a class', 'checkpoints/thing.pt'],
  ['a zip archive with compressed entries', 'checkpoints/compressed.pt'],
  ['a zip archive of other files', 'checkpoints/pictures.zip'],
];

const cell = (text) => text.replaceAll('|', '\\|').replaceAll('\n', ' ');
const table = (head, rows) =>
  [head, head.map(() => '---'), ...rows]
    .map((row) => `| ${row.map(cell).join(' | ')} |`)
    .join('\n');
const code = (text) => `\`${text}\``;

const loader = new PluginLoader(findPlugins(join(root, 'packages/cli')));
const kinds = [];
for (const id of loader.ids('adapters').toSorted((a, b) => (a < b ? -1 : 1)))
  kinds.push([id, await loader.get('adapters', id)]);

const adapters = () =>
  table(
    ['kind', 'layout', 'algorithm', '', 'loaded'],
    kinds.flatMap(([id, kind]) =>
      formatsOf(kind, id).map(({ dialect, algorithm, about, refusal }) => [
        code(id),
        dialect,
        algorithm,
        about,
        refusal ? `refused: ${refusal}` : 'yes',
      ]),
    ),
  );

/** What `convert` writes: a ControlNet that is a change of its base, as a whole. */
const written = () =>
  table(
    ['kind', '`attune convert --to`'],
    kinds.map(([id, { dialects = [] }]) => [code(id), dialects.map(code).join(', ') || 'none yet']),
  );

const models = () =>
  table(
    [
      'part',
      'as diffusers or transformers save it',
      'names in one file of the original code begin with',
    ],
    checkpointLayout.map(({ part, className, prefixes }) => [
      code(part),
      className,
      prefixes.map(code).join(', '),
    ]),
  );

/** What opening says, without the path and what is below the cause. */
function opened(file) {
  const path = join(root, 'test/parity/fixtures', file);
  const other = statSync(path).isFile() ? recogniseFile(path) : undefined;
  if (other) return `refused: ${other.reason}`;
  try {
    readAdapterFile(path);
    return 'yes';
  } catch (error) {
    return `refused: ${error.message.replace(`${path}: `, '').replace(/\.$/, '')}`;
  }
}

const refused = () =>
  table(
    ['recognised and refused', 'what to do'],
    foreign.map(({ reason, fix }) => [reason.replace(/^it (is|looks like|holds) /, ''), fix]),
  );

const text = [
  `### Adapters\n\n${adapters()}\n\n${written()}`,
  `### Models\n\n${models()}`,
  `### Containers\n\n${table(
    ['container', 'opened'],
    containers.map(([name, file]) => [name, opened(file)]),
  )}`,
  `### Other files\n\n${refused()}`,
].join('\n\n');

const before = readFileSync(page, 'utf8');
const [from, to] = marks.map((mark) => before.indexOf(mark));
if (from < 0 || to < from) throw new Error(`${page} has no marked section for the tables.`);
const after = `${before.slice(0, from + marks[0].length)}\n\n${text}\n\n${before.slice(to)}`;
if (values.check) {
  if (after !== before) {
    console.error(`${page} is out of date: run pnpm docs:formats.`);
    process.exitCode = 1;
  }
} else if (after !== before) writeFileSync(page, after);
