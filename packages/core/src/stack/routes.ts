/** Routes of a stack file: their pictures are found. */

import { AttuneError, toF32, Weights } from '@attune/engine';

import type { Picture, Route, Routes } from '../adapters/routes.ts';
import type { RouteEntry } from './schema.ts';

/** Opens a picture by its full path; throws where it is none. */
export type ReadImage = (path: string) => Promise<Picture>;

/** A .safetensors file's tensor `image` [3, H, W] in [0, 1], for runs of that size; throws BAD_IMAGE for other files. */
export const readTensorImage: ReadImage = async (path) => {
  const file = path.endsWith('.safetensors') ? Weights.fromFile(path) : undefined;
  if (!file?.has('image'))
    throw new AttuneError(
      'BAD_IMAGE',
      `${path}: pictures are not read here; give the image as a .safetensors file with a tensor "image" [3, H, W].`,
    );
  const { data, shape } = toF32(file.entry('image').load());
  return async (height, width) => {
    if (shape.join() === [3, height, width].join())
      return { dtype: 'f32', shape: [1, ...shape], data };
    throw new AttuneError(
      'BAD_IMAGE',
      `${path}: "image" is [${shape}], and [3, ${height}, ${width}] is needed.`,
    );
  };
};

/** The routes of a stack file; `find` makes a path of the file a full one. */
export async function readRoutes(
  entries: Readonly<Record<string, RouteEntry>>,
  find: (path: string) => string,
  read: ReadImage,
): Promise<Routes> {
  const routes: Record<string, Route> = {};
  for (const [port, entry] of Object.entries(entries))
    routes[port] =
      typeof entry === 'object' && 'image' in entry
        ? { image: await read(find(entry.image)) }
        : entry;
  return routes;
}
