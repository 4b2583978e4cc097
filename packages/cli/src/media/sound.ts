/** The sound of an mp4, carried over packet by packet as it is: nothing is decoded or encoded again. */

import type { EncodedAudioPacketSource, Output } from 'mediabunny';

import { reasonOf } from './errors.ts';
import type { Peers } from './peers.ts';

/** A sound track that can be carried over. */
export interface Sound {
  /** The mp4 or QuickTime file that holds it. */
  readonly path: string;
  /** When its clip's first frame is shown, in seconds on the file's own clock. */
  readonly from: number;
}

/** The sound on its way into an output. */
export interface SoundCopy {
  /** Adds the packets that begin before `end`, in seconds after the first frame. Never throws. */
  until(end: number): Promise<void>;
  /** Closes the source; what had to be left out, for people to read. */
  close(): string[];
}

/**
 * Adds a track for `sound` to an output that has not started. A packet during which the first frame
 * appears is kept whole, the container says where in it the clip begins. A text instead of a copy says
 * why there is no sound.
 */
export async function copySound(
  { path, from }: Sound,
  output: Output,
  bunny: Peers['bunny'],
): Promise<SoundCopy | string> {
  const input = new bunny.Input({
    source: new bunny.FilePathSource(path, { handleUnhandledError: () => undefined }),
    formats: [bunny.MP4, bunny.QTFF],
  });
  const refused = (why: string): string => {
    input.dispose();
    return `${path}: the sound track is left out (${why})`;
  };
  try {
    const track = await input.getPrimaryAudioTrack();
    const codec = await track?.getCodec();
    const config = await track?.getDecoderConfig();
    if (!track || !codec || !config) return refused('its codec is not known here');
    if (!output.format.getSupportedAudioCodecs().includes(codec))
      return refused(`an mp4 holds no ${codec}`);
    const source: EncodedAudioPacketSource = new bunny.EncodedAudioPacketSource(codec);
    output.addAudioTrack(source);
    const packets = new bunny.EncodedPacketSink(track).packets();
    let next = await packets.next();
    let failure: string | undefined;
    let copied = 0;
    return {
      until: async (end) => {
        if (failure !== undefined) return;
        try {
          for (; !next.done; next = await packets.next()) {
            const at = next.value.timestamp - from;
            if (at >= end) return;
            if (at + next.value.duration <= 0) continue;
            const packet = next.value.clone({ timestamp: at });
            await source.add(packet, { decoderConfig: config });
            copied = at + packet.duration;
          }
        } catch (error) {
          failure = reasonOf(error);
        }
      },
      close: () => {
        input.dispose();
        return failure === undefined
          ? []
          : [`${path}: the sound track ends after ${copied.toFixed(2)} s (${failure})`];
      },
    };
  } catch (error) {
    return refused(reasonOf(error));
  }
}
