/** Paths of a stack file, which are relative to it, for a stack file in another folder. */

import { relative, resolve } from 'node:path';

import { isHubReference, type StackFile } from '@attune/core';

import { movedImages } from '../routes.ts';
import type { StackSession } from '../stack.ts';
import { movedMasks } from '../strengths.ts';

/** A path for the stack file: relative to it, or the hub's reference as it is. */
export const placed = (whole: string, target: string, given: string): string =>
  isHubReference(given) ? given : relative(target, whole) || '.';

/** A stack with its paths relative to another folder. */
export function movedTo(target: string, { stack, folder, loader }: StackSession): StackFile {
  const moved = (path: string): string => placed(resolve(folder, path), target, path);
  return {
    ...stack,
    backbone:
      loader.ids('backbones').includes(stack.backbone) || isHubReference(stack.backbone)
        ? stack.backbone
        : place(moved(stack.backbone)),
    ...(stack.config === undefined ? {} : { config: moved(stack.config) }),
    adapters: stack.adapters.map((entry) => ({
      ...entry,
      ...(entry.from === undefined ? {} : { from: moved(entry.from) }),
      ...(entry.strength === undefined ? {} : { strength: movedMasks(entry.strength, moved) }),
    })),
    ...(stack.routes ? { routes: movedImages(stack.routes, moved) } : {}),
    plugins: stack.plugins.map(moved),
  };
}

/** A bare word is a bundled model's id: a folder beside the stack file is written with a dot. */
const place = (path: string): string => (/^[\w-]+$/.test(path) ? `./${path}` : path);
