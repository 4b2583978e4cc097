/** Pocket as a plugin: its model, its data, its judges and its suite. */

import { dataKind, definePlugin } from '@attune/core';
import { z } from 'zod';

import { captioned, CaptionedOptions } from './data/captioned.ts';
import { edits, EditsOptions } from './data/edits.ts';
import { images } from './data/images.ts';
import { labelled, LabelledOptions } from './data/labelled.ts';
import { modelsFolder } from './folders.ts';
import { classifierKind } from './judge/net.ts';
import { pocketSuite } from './suite/suite.ts';

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
    suites: { pocket: pocketSuite },
    nets: { judge: classifierKind, features: classifierKind },
  },
});
