/** What an opened picture or clip offers, whatever its format. */

import type { Frame } from './frame.ts';
import type { Sound } from './sound.ts';

/** An opened picture or clip. Nothing stays open between calls; there is nothing to close. */
export interface MediaSource {
  readonly path: string;
  /** `png`, `jpeg`, `webp`, `gif`, `folder`, `mp4`, or a name that ffmpeg gives. */
  readonly format: string;
  readonly kind: 'image' | 'clip';
  /** Pixels, after EXIF or container rotation and with square pixels. */
  readonly width: number;
  readonly height: number;
  /** Mean frames per second; 0 for an image. */
  readonly fps: number;
  /** Where it is known without reading to the end. */
  readonly frameCount?: number | undefined;
  /** A sound track lies beside the pictures. */
  readonly audio: boolean;
  /** That track, where it can be carried over into an mp4. */
  readonly sound?: Sound | undefined;
  /**
   * The frames in order, a few in memory at a time. Alpha is laid over white. May be called again.
   * Throws BAD_FILE where the bytes end or break, NO_FRAMES where there is none.
   */
  frames(): AsyncGenerator<Frame>;
}

/** No frame larger than this is decoded: 2²⁷ pixels (11,585²), 400 MB. */
export const MAX_PIXELS = 2 ** 27;

/** Compressed pictures larger than this are refused (they are read whole), in bytes. */
export const MAX_FILE = 2 ** 30;
