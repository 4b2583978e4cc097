// One candidate of a distillation as the run would have saved it, to be judged or tuned further.
// node packages/pocket/scripts/candidate.mjs RUN STEP OUT_FOLDER
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

import {
  exportTrained,
  findPlugins,
  materialize,
  nominalDims,
  openStack,
  parseYaml,
  PluginLoader,
} from '@attune/core';
import { openSafetensors, toF32, Weights } from '@attune/engine';
import { DistillRecipe } from '@attune/fdd';

const pocket = join(import.meta.dirname, '..');

/** Writes the candidate of a step into a folder, as `attune distill` writes the one that it keeps. */
export async function writeCandidate(run, step, out) {
  const recipe = parseYaml(DistillRecipe, readFileSync(join(run, 'recipe.yaml'), 'utf8'), run);
  const loader = new PluginLoader(findPlugins(join(pocket, '..', 'cli')));
  const { stack } = recipe.distill.student;
  const student = materialize(await openStack(stack, join(pocket, 'recipes'), loader), {
    dims: nominalDims,
    seed: recipe.distill.seed,
  });
  const name = `step-${step.padStart(8, '0')}.safetensors`;
  const file = Weights.fromFile(join(run, 'candidates', name));
  const params = Object.fromEntries(
    [...file.names()].map((key) => [key, toF32(file.entry(key).load()).data]),
  );
  exportTrained(student, params, out, { metadata: { ...ofRun(run), 'attune.kept_step': step } });
}

/** What the run wrote into the file that it kept: its recipe, log, seed and last step. */
function ofRun(run) {
  const best = readdirSync(join(run, 'best')).find((file) => file.endsWith('.safetensors'));
  const { metadata } = openSafetensors(join(run, 'best', best));
  return Object.fromEntries(
    ['recipe', 'log', 'seed', 'step'].map((key) => [`attune.${key}`, metadata[`attune.${key}`]]),
  );
}

if (import.meta.url === pathToFileURL(process.argv[1]).href)
  await writeCandidate(...process.argv.slice(2));
