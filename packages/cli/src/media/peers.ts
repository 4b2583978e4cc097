/** The optional packages that read and write H.264 mp4 in-process, and the ffmpeg that may stand in. */

import type * as Codecs from '@napi-rs/webcodecs';
import type * as Bunny from 'mediabunny';

import { codeOf, reasonOf } from './errors.ts';

/** mediabunny (the container) and @napi-rs/webcodecs (H.264; its binary holds x264: treat it as GPL). */
export interface Peers {
  readonly bunny: typeof Bunny;
  readonly codecs: typeof Codecs;
}

/** Where video comes from. Tests, and hosts with their own ffmpeg, pass another. */
export interface VideoTools {
  /** The optional packages, or why they cannot be had. */
  readonly peers: () => Promise<Peers | string>;
  /** The ffmpeg to run, by name on the PATH or by path; ffprobe is looked for beside it. */
  readonly ffmpeg: string;
}

/** Loads both packages, or says which is absent or broken. Neither is ever a hard dependency. */
export async function loadPeers(
  bunny = (): Promise<typeof Bunny> => import('mediabunny'),
  codecs = (): Promise<typeof Codecs> => import('@napi-rs/webcodecs'),
): Promise<Peers | string> {
  const loaded = await load('mediabunny', bunny);
  if (typeof loaded === 'string') return loaded;
  loaded.Logging.level = loaded.LogLevel.Silent; // what matters comes as an error
  const native = await load('@napi-rs/webcodecs', codecs);
  return typeof native === 'string' ? native : { bunny: loaded, codecs: native };
}

async function load<T extends object>(name: string, from: () => Promise<T>): Promise<T | string> {
  try {
    return await from();
  } catch (error) {
    return codeOf(error)?.endsWith('MODULE_NOT_FOUND')
      ? `the optional package ${name} is not installed`
      : `the optional package ${name} does not load here (${reasonOf(error)})`;
  }
}

export const videoTools: VideoTools = { peers: () => loadPeers(), ffmpeg: 'ffmpeg' };
