/** H.264 mp4 in-process: webcodecs encodes, mediabunny builds the container. */

import type { EncodedPacket } from 'mediabunny';

import { checkFrame, type Frame, type Frames } from './frame.ts';
import { type Notes, notesLine } from './notes.ts';
import { settle } from './pace.ts';
import type { Peers } from './peers.ts';
import { copySound, type Sound } from './sound.ts';
import { toI420 } from './yuv.ts';

/** Frames the encoder may hold before it is given more. */
const AHEAD = 8;

/** Generous: two bits per pixel. Flat pictures take far less, the encoder stops at visually lossless. */
const BITS_PER_PIXEL = 2;

/** What players are told about the colours; toI420 makes them so. */
const colorSpace = {
  primaries: 'bt709',
  transfer: 'bt709',
  matrix: 'bt709',
  fullRange: false,
} as const;

/**
 * Frames of one size → the bytes of an mp4 that starts playing at once (its index in front), each
 * frame shown for its delay. 4:2:0 is even: odd sizes grow by one repeated row or column. Only the
 * encoded bytes are held in memory. The sound lasts as long as the frames, to a packet. Expects at
 * least one frame. What had to be left out goes to `notices`.
 */
export async function encodeMp4(
  frames: Frames,
  { bunny, codecs }: Peers,
  notes: Notes,
  { sound, notices }: { readonly sound?: Sound | undefined; readonly notices: string[] },
): Promise<Uint8Array> {
  const target = new bunny.BufferTarget();
  const format = new bunny.Mp4OutputFormat({ fastStart: 'in-memory' });
  const output = new bunny.Output({ format, target });
  const track = new bunny.EncodedVideoPacketSource('avc');
  output.addVideoTrack(track);
  const copy = sound && (await copySound(sound, output, bunny));
  if (typeof copy === 'string') notices.push(copy);
  const heard = typeof copy === 'string' ? undefined : copy;
  if (Object.keys(notes).length > 0) output.setMetadataTags({ comment: notesLine(notes) });
  await output.start();

  const packets: { packet: EncodedPacket; meta: EncodedVideoChunkMetadata }[] = [];
  const delays: number[] = []; // no B-frames: packets come in the order of frames
  let outputs = 0;
  let failure: Error | undefined;
  const encoder = new codecs.VideoEncoder({
    output: (chunk, meta) => {
      const data = new Uint8Array(chunk.byteLength);
      chunk.copyTo(data);
      const duration = delays[outputs++] / 1000;
      const packet = new bunny.EncodedPacket(data, chunk.type, chunk.timestamp / 1e6, duration);
      const config = meta?.decoderConfig;
      packets.push({
        packet,
        meta: config ? { decoderConfig: { ...config, colorSpace } } : {},
      });
    },
    error: (error) => (failure ??= error),
  });
  const deliver = async () => {
    if (failure) throw failure;
    for (const { packet, meta } of packets.splice(0)) await track.add(packet, meta);
  };
  const wait = (busy: () => boolean) =>
    settle(
      () => !failure && busy(),
      () => outputs - encoder.encodeQueueSize,
      () => new Error('the H.264 encoder stopped'),
    );
  try {
    let first: Frame | undefined;
    let clock = 0;
    for await (const frame of frames) {
      checkFrame('mp4', frame, first);
      const size = evenSize(frame);
      if (!first) {
        first = frame;
        encoder.configure({
          codec: 'avc1.640028',
          ...size,
          ...effort(frame),
          avc: { format: 'avc' },
        });
      }
      const [timestamp, duration] = [clock, frame.delay].map((ms) => Math.round(ms * 1000));
      const picture = new codecs.VideoFrame(toI420(frame.data, frame.width, frame.height), {
        format: 'I420',
        codedWidth: size.width,
        codedHeight: size.height,
        timestamp,
        duration,
        colorSpace,
      });
      delays.push(frame.delay);
      clock += frame.delay;
      encoder.encode(picture);
      picture.close();
      await wait(() => encoder.encodeQueueSize > AHEAD);
      await deliver();
      await heard?.until(clock / 1000);
    }
    const flush = { done: false };
    const flushed = encoder
      .flush()
      .catch((error: Error) => (failure ??= error))
      .finally(() => (flush.done = true));
    await wait(() => !flush.done);
    await flushed;
    await deliver();
    await output.finalize();
  } catch (error) {
    await output.cancel();
    throw error;
  } finally {
    notices.push(...(heard?.close() ?? []));
    if (encoder.state !== 'closed') encoder.close();
  }
  if (!target.buffer) throw new Error('the mp4 container gave no bytes');
  return undated(new Uint8Array(target.buffer));
}

const containers = new Set(['moov', 'trak', 'mdia']);
const dated = new Set(['mvhd', 'tkhd', 'mdhd']);

/** Takes the hour of writing out of the headers (ISO/IEC 14496-12 §8.2.2), in place: the same frames give the same bytes. */
function undated(bytes: Uint8Array): Uint8Array {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const walk = (from: number, end: number): void => {
    for (let at = from; at + 8 <= end;) {
      const size = view.getUint32(at);
      const type = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
      if (size < 8) return; // to the end of the file, or 64-bit: media data, not a header
      if (containers.has(type)) walk(at + 8, at + size);
      // After size, type and version with flags: creation and modification time.
      if (dated.has(type)) bytes.fill(0, at + 12, at + 12 + (bytes[at + 8] === 1 ? 16 : 8));
      at += size;
    }
  };
  walk(0, bytes.length);
  return bytes;
}

/** The even size that holds a frame. */
export const evenSize = ({ width, height }: Frame): { width: number; height: number } => ({
  width: width + (width % 2),
  height: height + (height % 2),
});

const effort = ({ width, height, delay }: Frame) => {
  const framerate = Math.min(240, Math.max(1, 1000 / delay));
  return {
    framerate,
    bitrate: Math.max(2_000_000, Math.round(width * height * framerate * BITS_PER_PIXEL)),
    latencyMode: 'quality',
    hardwareAcceleration: 'prefer-software',
  } as const;
};
