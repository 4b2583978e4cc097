/** Pocket as a plugin: its model, its data, its judges and its suite. */

import { join } from 'node:path';

import { dataKind, definePlugin } from '@attune/core';
import { z } from 'zod';

import { captioned, CaptionedOptions } from './data/captioned.ts';
import { edits, EditsOptions } from './data/edits.ts';
import { images } from './data/images.ts';
import { labelled, LabelledOptions } from './data/labelled.ts';
import { modelsFolder, stacksFolder } from './folders.ts';
import { classifierKind } from './judge/net.ts';
import { pocketSuite } from './suite/suite.ts';

/** Where a bundled stack's file is. */
function stackFile(name: string): () => string {
  return () => join(stacksFolder(), `${name}.yaml`);
}

/** The plugin: the model `pocket`, its data, stacks, judges and suite. */
export default definePlugin({
  api: 1,
  contributes: {
    backbones: { pocket: { folder: modelsFolder } },
    data: {
      captioned: dataKind({ options: CaptionedOptions, create: captioned }),
      edits: dataKind({ options: EditsOptions, create: edits }),
      images: dataKind({ options: z.strictObject({}), create: images }),
      labelled: dataKind({ options: LabelledOptions, create: labelled }),
    },
    stacks: { plain: { file: stackFile('plain') }, aligned: { file: stackFile('aligned') } },
    suites: { pocket: pocketSuite },
    nets: { judge: classifierKind, features: classifierKind },
  },
});
