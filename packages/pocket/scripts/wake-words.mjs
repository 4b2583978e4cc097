// Words that the text encoder has never read keep the embeddings of their initialisation, a quarter of
// the others' length, and the encoder's states hardly tell one from another. This gives the words of
// motion, which only clips' captions have, the length of the words that pictures taught; every caption
// of a picture and every instruction is encoded as before, to the bit.
// wakeWords(models): a model folder, whose text encoder it rewrites; returns the words.
import { join } from 'node:path';

import { loadModel } from '@attune/core';
import { openSafetensors, Rng, toF32, toHalf, writeSafetensors } from '@attune/engine';
import { clipCaption, imageCaption, sampleEdit, sampleScene, TASKS } from '@attune/pocket';

const KEY = 'text_model.embeddings.token_embedding.weight';

/** The token ids of picture captions and instructions, and of clip captions, of `count` scenes each. */
function idsRead({ encode }, count) {
  const rng = Rng.of(900_401);
  const [still, moving] = [new Set(), new Set()];
  const read = (set, words) => encode(words).ids.forEach((id) => set.add(id));
  for (let i = 0; i < count; i++) {
    const draw = rng.fork(i);
    const scene = sampleScene(draw);
    const edit = sampleEdit(draw, draw.pick(TASKS));
    read(moving, clipCaption(scene, draw));
    for (const words of [imageCaption(scene, draw), edit.caption, edit.instruction])
      read(still, words);
  }
  return { still, moving };
}

export async function wakeWords(models) {
  const { tokenizer } = await loadModel(models);
  const { still, moving } = idsRead({ encode: (words) => tokenizer.encode(words) }, 4000);
  const path = join(models, 'text_encoder', 'model.safetensors');
  const file = openSafetensors(path);
  const tensors = Object.fromEntries([...file.tensors.keys()].map((key) => [key, file.read(key)]));
  const table = toF32(tensors[KEY]);
  const width = table.shape[1];
  const row = (id) => table.data.subarray(id * width, (id + 1) * width);
  const length = (id) => Math.sqrt(row(id).reduce((sum, v) => sum + v * v, 0) / width);
  const taught = [...still].map(length).toSorted((a, b) => a - b);
  const usual = taught[Math.floor(taught.length / 2)];
  const asleep = [...moving].filter((id) => !still.has(id) && length(id) < usual / 2);
  for (const id of asleep) {
    const scale = usual / length(id);
    row(id).forEach((value, i, values) => (values[i] = value * scale));
  }
  tensors[KEY] = tensors[KEY].dtype === 'f32' ? table : toHalf(table, tensors[KEY].dtype);
  writeSafetensors(path, tensors, file.metadata);
  return asleep.map((id) => tokenizer.decode([id]));
}
