/** Opens stack.yaml as a stranger's program would, from the built packages, and prints what came of it. */

import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

import {
  compile,
  createContainer,
  findPlugins,
  loadModel,
  LoaderToken,
  materialize,
  openStack,
  parseYaml,
  StackFile,
  standingFeeds,
  traceNet,
} from '@attune/core';
import { checkKind } from '@attune/core/testing';
import { emit, OrtRuntime, Rng } from '@attune/engine';

const folder = dirname(fileURLToPath(import.meta.url));
const file = join(folder, 'stack.yaml');
const stack = parseYaml(StackFile, readFileSync(file, 'utf8'), file);
const plugins = findPlugins(folder, stack.plugins);
const loader = createContainer(plugins).get(LoaderToken);

const dims = { B: 1, F: 2, H: 8, W: 8, L: 4 };
const model = materialize(await openStack(stack, folder, loader), { dims });
const program = compile(model, { net: 'unet', dims }, { runtime: new OrtRuntime({ threads: 1 }) });
const feeds = standingFeeds(model, program);
for (const [name, { shape }] of program.inputs) feeds[name] ??= Rng.of(1).fork(name).normals(shape);
const { sample } = await program.run(feeds);

/** The ONNX bytes of a model's net. */
const bytesOf = (one) => {
  const { traced } = traceNet(one, { net: 'unet', dims });
  const outputs = Object.values(traced.outputs);
  return emit({ outputs, boundary: new Map(), weight: (name) => one.weights.entry(name) }).model;
};
const opened = (adapters) => openStack({ ...stack, adapters }, folder, loader);
const backbone = bytesOf(await loadModel(join(folder, stack.backbone)));
const same = (one) => Buffer.compare(bytesOf(one), backbone) === 0;

const kind = await loader.get('adapters', 'example/image-prompt');
const report = {
  plugins: plugins.map(({ package: name }) => name),
  adapters: model.adapters.map(({ name, strength }) => ({ name, strength })),
  inputs: [...program.inputs.keys()],
  own: [...model.weights.names()].filter((name) => name.startsWith('look.')).length,
  shape: sample.shape,
  finite: sample.data.every(Number.isFinite),
  backboneBytes: {
    'no adapter': same(await opened([])),
    'strength 0': same(await opened(stack.adapters.map((entry) => ({ ...entry, strength: 0 })))),
    'strength 0.5': same(model),
  },
  findings: await checkKind(kind, { count: 3 }),
};
process.stdout.write(JSON.stringify(report));
