/** README.md of an export, its model card: what is in it, how it is run, what was checked. */

import { TOLERANCE } from './check.ts';
import { type Exported, typeNames } from './manifest.ts';
import type { Origin } from './origin.ts';
import type { Sizes, Value } from './part.ts';

interface Common {
  readonly stack: string;
  readonly origins: readonly Origin[];
}

/** Card of an export as ONNX. */
export function onnxCard(
  common: Common,
  {
    parts,
    sizes,
    weights,
    liveStrengths,
  }: {
    readonly parts: readonly Exported[];
    readonly sizes: Sizes;
    readonly weights: string;
    readonly liveStrengths: boolean;
  },
): string {
  const { batch, frames, height, width, tokens } = sizes;
  return joined([
    `# ${common.stack}, as ONNX`,
    `Exported by attune: the backbone with all its adapters, ${parts.length === 1 ? 'one model' : 'one model for each part'}. Sizes are fixed: ${batch} clip(s) of ${frames} frame(s), ${height} × ${width} (height × width), ${tokens} tokens. Strengths are ${liveStrengths ? 'inputs (`gate.…`)' : 'part of the model, as in the table'}. Weights are stored as ${weights}; everything is computed in float32.`,
    originTable(common.origins),
    ...parts.map(partText),
    `## The pipeline`,
    `\`manifest.json\` holds what lies between the parts: the tokenizer's folder and ids, how latents are scaled (the diffusion model's are (latents − shift) · scale), the strengths, and a DDIM run: start from unit noise; at each of \`schedule.sampling.steps\` run the unet at t and replace x by cx · x + cp · prediction. Guidance is a sum over several calls, none + s · (text − none).`,
    `## In Python`,
    code('python', pythonOf(parts[0])),
    `## In the browser`,
    code('js', browserOf(parts[0])),
    `## What was checked`,
    [
      ...parts.map(
        ({ graph, checked: { error, rounding } }) =>
          `- \`${graph.file}\` was opened from its final bytes in ONNX Runtime for Node and run on random inputs: it differs from attune's own run by ${figure(error)} of the largest output (allowed: ${TOLERANCE}).${rounding > 0 ? ` Rounding the weights to ${weights} changes the output by ${figure(rounding)}.` : ''}`,
      ),
      '- `check.safetensors` holds one of these runs (`<part>.in.<name>`, `<part>.out.<name>`), to repeat the comparison anywhere.',
    ].join('\n'),
    hashes(parts.flatMap(({ files }) => files)),
  ]);
}

/** Card of merged adapters. */
export function mergedCard(
  common: Common,
  {
    id,
    dialect,
    file,
    error,
    effect,
    files,
  }: {
    readonly id: string;
    readonly dialect: string;
    readonly file: string;
    readonly error: number;
    readonly effect: number;
    readonly files: Exported['files'];
  },
): string {
  return joined([
    `# ${common.stack}: its ${id} adapters as one`,
    `Exported by attune: the adapters that the table says are included, each times its strength, as one ${id} in the layout of ${dialect} (\`${file}\`), for the same backbone, at strength 1.`,
    originTable(common.origins),
    `## What was checked`,
    `\`${file}\` was read again and stacked on the rest in the place of the adapters it stands for: the outputs of the text encoder and the UNet on fixed random inputs differ by ${figure(error)} of the largest (allowed: ${TOLERANCE}). Without it they would differ by ${figure(effect)}.`,
    hashes(files),
  ]);
}

/** An error as people read it. */
export const figure = (error: number): string => (error === 0 ? '0' : error.toExponential(1));
const code = (language: string, text: string): string => `\`\`\`${language}\n${text}\n\`\`\``;
const joined = (blocks: readonly string[]): string => `${blocks.join('\n\n')}\n`;

/** Text in a cell: names come from files. */
const cell = (text: string): string =>
  // eslint-disable-next-line no-control-regex
  text.replaceAll(/[\u0000-\u001f\u007f-\u009f]/g, ' ').replaceAll('|', String.raw`\|`);

const line = (cells: readonly string[]): string => `| ${cells.map(cell).join(' | ')} |`;

const table = (head: readonly string[], rows: readonly (readonly string[])[]): string =>
  [line(head), line(head.map(() => '---')), ...rows.map(line)].join('\n');

function originTable(origins: readonly Origin[]): string {
  const rows = origins.map(({ name, kind, package: from, strength, included, files, license }) => [
    name,
    kind ?? '',
    from ?? '',
    strength === undefined ? '' : JSON.stringify(strength),
    included ? 'yes' : 'no',
    license ?? 'not declared',
    files.map(({ file, sha256 }) => `${file} ${sha256}`).join('<br>'),
  ]);
  return [
    '## What is in it',
    '',
    table(['', 'kind', 'package', 'strength', 'included', 'licence', 'files, SHA-256'], rows),
  ].join('\n');
}

const portRow = (way: string, { name, dtype, shape, about }: Value): string[] => [
  way,
  `\`${name}\``,
  typeNames[dtype] ?? dtype,
  `[${shape.join(', ')}]`,
  about,
];

function partText({ graph }: Exported): string {
  return [
    `## ${graph.file}`,
    '',
    ...(graph.data ? [`Its weights are in \`${graph.data}\`, which must lie beside it.`, ''] : []),
    table(
      ['', 'name', 'type', 'shape', 'what'],
      [
        ...graph.inputs.map((value) => portRow('in', value)),
        ...graph.outputs.map((value) => portRow('out', value)),
      ],
    ),
  ].join('\n');
}

const hashes = (files: Exported['files']): string =>
  table(
    ['file', 'bytes', 'SHA-256'],
    files.map(({ file, bytes, sha256 }) => [`\`${file}\``, String(bytes), sha256]),
  );

const pythonOf = ({ graph }: Exported): string => `import json, numpy, onnxruntime

part = json.load(open("manifest.json"))["parts"]["${graph.part.name}"]
net = onnxruntime.InferenceSession(part["file"])
feeds = {i["name"]: numpy.zeros(i["shape"], i["dtype"]) for i in part["inputs"]}  # put yours in their places
outputs = dict(zip([o["name"] for o in part["outputs"]], net.run(None, feeds)))
print({name: value.shape for name, value in outputs.items()})`;

const browserOf = ({ graph }: Exported): string => `import * as ort from 'onnxruntime-web';

const { parts } = await (await fetch('manifest.json')).json();
const part = parts['${graph.part.name}'];
const net = await ort.InferenceSession.create(part.file, {
  executionProviders: ['wasm'], // or 'webgpu'
  ...(part.data ? { externalData: [{ path: part.data, data: part.data }] } : {}),
});
const arrays = { float32: Float32Array, int64: BigInt64Array };
const feeds = {};
for (const { name, dtype, shape } of part.inputs) {
  const size = shape.reduce((a, b) => a * b, 1);
  feeds[name] = new ort.Tensor(dtype, new arrays[dtype](size), shape); // put yours in their places
}
const outputs = await net.run(feeds);
console.log(Object.keys(outputs));`;
