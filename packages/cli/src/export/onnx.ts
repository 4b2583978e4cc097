/** A stack as ONNX models in a folder: parts, tokenizer, manifest, card, and a run to repeat. */

import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { AttuneError, type NDArray, writeSafetensors } from '@attune/engine';

import { openWhole } from '../probe/model.ts';
import type { PartName } from '../probe/run.ts';
import type { StackSession } from '../stack.ts';
import { progress } from '../terminal.ts';
import { onnxCard } from './card.ts';
import { checkGraph } from './check.ts';
import { type StoredType, writeGraph } from './graph.ts';
import { type Exported, onnxManifest } from './manifest.ts';
import { hashed, originsOf } from './origin.ts';
import { partsOf, type Sizes, sizesOf } from './part.ts';

export interface OnnxOptions {
  readonly part: PartName | 'all';
  readonly sizes: Partial<Sizes>;
  readonly weights: StoredType;
  readonly external: boolean;
  readonly liveStrengths: boolean;
  /** Fires when the export is to stop. */
  readonly signal: AbortSignal;
}

/** @throws INTERRUPTED */
export function stopIf(signal: AbortSignal): void {
  if (!signal.aborted) return;
  throw new AttuneError('INTERRUPTED', 'The export was stopped; nothing is kept.');
}

/** Writes into a folder that is made here. `stack` is the stack's name for people. */
export async function exportOnnx(
  session: StackSession,
  stack: string,
  folder: string,
  { signal, ...options }: OnnxOptions,
): Promise<readonly Exported[]> {
  const { loader, runtime } = session;
  const model = await openWhole(session, loader);
  const sizes = sizesOf(model, options.sizes);
  const planned = partsOf(model, options.part, sizes);
  mkdirSync(folder);
  const parts: Exported[] = [];
  const vectors: Record<string, NDArray> = {};
  for (const part of planned) {
    stopIf(signal);
    progress(`${part.name}: writing`);
    const graph = writeGraph(model, part, {
      ...options,
      folder,
      metadata: { 'attune.stack': stack, 'attune.part': part.name },
    });
    progress(`${part.name}: checking`);
    const checked = await checkGraph(model, graph, folder, runtime);
    Object.assign(vectors, checked.vectors);
    const written = [graph.file, ...(graph.data ? [graph.data] : [])];
    const files = hashed(written.map((file) => join(folder, file)));
    parts.push({ graph, checked, files });
  }
  await model.tokenizer?.save(join(folder, 'tokenizer'));
  writeSafetensors(join(folder, 'check.safetensors'), vectors);
  const origins = originsOf(session, model);
  const more = { parts, sizes, weights: options.weights, liveStrengths: options.liveStrengths };
  const manifest = onnxManifest({ stack, origins }, session, model, more);
  writeFileSync(join(folder, 'README.md'), onnxCard({ stack, origins }, more));
  writeFileSync(join(folder, 'manifest.json'), `${JSON.stringify(manifest, null, 1)}\n`);
  return parts;
}
