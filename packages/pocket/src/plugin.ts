/** Pocket as a plugin: its model, its data and its judges. */

import { fileURLToPath } from 'node:url';

import { dataKind, definePlugin } from '@attune/core';
import { z } from 'zod';

import { captioned, CaptionedOptions } from './data/captioned.ts';
import { edits, EditsOptions } from './data/edits.ts';
import { images } from './data/images.ts';
import { labelled, LabelledOptions } from './data/labelled.ts';
import { classifierKind } from './judge/net.ts';

/** The bundled model, in diffusers' layout. */
const models = (): string => fileURLToPath(new URL('../models', import.meta.url));

export default definePlugin({
  api: 1,
  contributes: {
    backbones: { pocket: { folder: models } },
    data: {
      captioned: dataKind({ options: CaptionedOptions, create: captioned }),
      edits: dataKind({ options: EditsOptions, create: edits }),
      images: dataKind({ options: z.strictObject({}), create: images }),
      labelled: dataKind({ options: LabelledOptions, create: labelled }),
    },
    nets: { judge: classifierKind, features: classifierKind },
  },
});
