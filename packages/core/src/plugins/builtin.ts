/** What core itself contributes, through the same door as every plugin. */

import { autoencode, AutoencodeOptions } from '../train/autoencode.ts';
import { classify, ClassifyOptions } from '../train/classify.ts';
import { denoise, DenoiseOptions } from '../train/denoise.ts';
import { apiVersion } from './manifest.ts';
import { definePlugin, objectiveKind } from './plugin.ts';

export default definePlugin({
  api: apiVersion,
  contributes: {
    objectives: {
      autoencode: objectiveKind({ options: AutoencodeOptions, create: autoencode }),
      classify: objectiveKind({ options: ClassifyOptions, create: classify }),
      denoise: objectiveKind({ options: DenoiseOptions, create: denoise }),
    },
  },
});
