/** mp4 and QuickTime in-process: mediabunny takes the container apart, webcodecs decodes. */

import { AttuneError } from '@attune/engine';
import type { VideoFrame } from '@napi-rs/webcodecs';
import type { EncodedPacket, EncodedPacketSink, Input, InputVideoTrack } from 'mediabunny';

import { badMedia, noFrames, reasonOf, tooBig } from './errors.ts';
import { delaysOf, fpsOf, type Frame } from './frame.ts';
import { settle, within } from './pace.ts';
import type { Peers } from './peers.ts';
import { through } from './picture.ts';
import { MAX_PIXELS, type MediaSource } from './source.ts';
import { isPlanar, type Plane, toRgb, type YuvMeaning } from './yuv.ts';

/** Packets the decoder may hold before more are read. */
const AHEAD = 8;

/** A packet that is shown: its start and duration in ms. `shown` is false for what an edit list cuts away. */
interface Moment {
  readonly start: number;
  readonly duration: number;
  readonly shown: boolean;
}

/** How decoded frames become upright ones with square pixels. */
interface Posture {
  readonly width: number;
  readonly height: number;
  readonly rotation: number;
  readonly flip: boolean;
}

/** Opens an mp4; returns a text where its codec is not for these packages (ffmpeg may know it). */
export async function openMp4(path: string, peers: Peers): Promise<MediaSource | string> {
  const input = open(path, peers);
  try {
    return await within(describe(path, peers, input), () => badMedia(path, 'it takes too long'));
  } catch (error) {
    throw asBadMedia(path, error);
  } finally {
    input.dispose();
  }
}

/** A failed read surfaces where it is awaited, so nobody needs to hear of it elsewhere. */
const open = (path: string, { bunny }: Peers): Input =>
  new bunny.Input({
    source: new bunny.FilePathSource(path, { handleUnhandledError: () => undefined }),
    formats: [bunny.MP4, bunny.QTFF],
  });

async function videoTrack(input: Input): Promise<InputVideoTrack> {
  const track = await input.getPrimaryVideoTrack();
  if (!track) throw new Error('it holds no video track');
  return track;
}

async function describe(path: string, peers: Peers, input: Input): Promise<MediaSource | string> {
  const track = await videoTrack(input);
  const codec = (await track.getCodec()) ?? 'an unknown codec';
  if (codec !== 'avc') return `the optional packages read H.264 only, not ${codec}`;
  const coded = (await track.getCodedWidth()) * (await track.getCodedHeight());
  if (!(coded > 0 && coded <= MAX_PIXELS))
    throw tooBig(path, `${coded} pixels a frame`, 'make it smaller first');
  const moments = await readMoments(new peers.bunny.EncodedPacketSink(track));
  const seen = moments.filter(({ shown }) => shown);
  const last = seen.at(-1);
  if (!last) throw noFrames(path, 'in its video track');
  const starts = seen.map(({ start }) => start);
  const audio = (await input.getPrimaryAudioTrack()) !== null;
  const delays = delaysOf(starts, last.duration);
  return {
    path,
    format: 'mp4',
    kind: 'clip',
    width: await track.getDisplayWidth(),
    height: await track.getDisplayHeight(),
    fps: fpsOf(delays),
    frameCount: seen.length,
    audio,
    ...(audio ? { sound: { path, from: starts[0] / 1000 } } : {}),
    frames: () => readFrames(path, peers, moments, delays),
  };
}

/** Start and duration of every packet, in the order of presentation. */
async function readMoments(sink: EncodedPacketSink): Promise<Moment[]> {
  const moments: Moment[] = [];
  for await (const packet of sink.packets(undefined, undefined, { metadataOnly: true })) {
    const [start, duration] = [packet.timestamp * 1000, packet.duration * 1000];
    moments.push({ start, duration, shown: start >= 0 || start + duration > 0 });
  }
  return moments.toSorted((a, b) => a.start - b.start);
}

async function* readFrames(
  path: string,
  peers: Peers,
  moments: readonly Moment[],
  delays: readonly number[],
): AsyncGenerator<Frame> {
  const input = open(path, peers);
  try {
    const track = await videoTrack(input);
    const config = await track.getDecoderConfig();
    if (!config) throw new Error('its H.264 description is missing');
    const posture: Posture = {
      width: await track.getSquarePixelWidth(),
      height: await track.getSquarePixelHeight(),
      rotation: await track.getRotation(),
      flip: await track.getFlip(),
    };
    const packets = new peers.bunny.EncodedPacketSink(track).packets();
    let decoded = 0;
    let shown = 0;
    // The decoder gives pictures in the order of presentation, but under the times of the order of
    // decoding (seen in 1.3.1, with B-frames): only the order is used.
    for await (const picture of decode(path, peers, packets, config)) {
      try {
        if (!(moments[decoded++]?.shown ?? false)) continue;
        const frame = await develop(picture, config.colorSpace ?? {}, delays[shown++]);
        yield await upright(frame, posture);
      } finally {
        picture.close();
      }
    }
    const lost = moments.length - decoded;
    if (lost > Math.max(2, moments.length / 50))
      throw badMedia(path, `only ${decoded} of ${moments.length} frames can be decoded`);
  } catch (error) {
    throw asBadMedia(path, error);
  } finally {
    input.dispose();
  }
}

async function* decode(
  path: string,
  { codecs }: Peers,
  packets: AsyncIterable<EncodedPacket>,
  config: VideoDecoderConfig,
): AsyncGenerator<VideoFrame> {
  const ready: VideoFrame[] = [];
  let failure: Error | undefined;
  let outputs = 0;
  const decoder = new codecs.VideoDecoder({
    output: (picture) => {
      outputs++;
      ready.push(picture);
    },
    error: (error) => (failure ??= error),
  });
  const check = () => {
    if (failure) throw failure;
  };
  const wait = (busy: () => boolean) =>
    settle(
      () => !failure && ready.length === 0 && busy(),
      () => outputs - decoder.decodeQueueSize,
      () => badMedia(path, 'the decoder stopped'),
    );
  try {
    decoder.configure({
      codec: config.codec,
      ...(config.description && { description: bytesOf(config.description) }),
      hardwareAcceleration: 'prefer-software', // the same pixels everywhere
    });
    for await (const { type, microsecondTimestamp: timestamp, data } of packets) {
      decoder.decode(new codecs.EncodedVideoChunk({ type, timestamp, data }));
      await wait(() => decoder.decodeQueueSize > AHEAD);
      check();
      for (let next = ready.shift(); next; next = ready.shift()) yield next;
    }
    const flush = { done: false };
    const flushed = decoder
      .flush()
      .catch((error: Error) => (failure ??= error))
      .finally(() => (flush.done = true));
    while (!flush.done || ready.length > 0) {
      await wait(() => !flush.done);
      check();
      for (let next = ready.shift(); next; next = ready.shift()) yield next;
    }
    await flushed;
    check();
  } finally {
    for (const picture of ready) picture.close();
    if (decoder.state !== 'closed') decoder.close();
  }
}

/** A decoded picture → RGB. The package's own conversion takes every video for BT.601, so it serves only rare formats. */
async function develop(picture: VideoFrame, given: YuvMeaning, delay: number): Promise<Frame> {
  const width = Math.round(picture.visibleRect.width);
  const height = Math.round(picture.visibleRect.height);
  const format = picture.format ?? 'RGBA';
  if (isPlanar(format)) {
    const data = new Uint8Array(picture.allocationSize());
    const planes: Plane[] = await picture.copyTo(data);
    const meaning = {
      matrix: given.matrix ?? picture.colorSpace.matrix,
      fullRange: given.fullRange ?? picture.colorSpace.fullRange,
    };
    return { data: toRgb(data, planes, format, width, height, meaning), width, height, delay };
  }
  const rgba = new Uint8Array(picture.allocationSize({ format: 'RGBA' }));
  await picture.copyTo(rgba, { format: 'RGBA' });
  const data = new Uint8Array(width * height * 3);
  for (let i = 0, o = 0; o < data.length; i += 4, o += 3) data.set(rgba.subarray(i, i + 3), o);
  return { data, width, height, delay };
}

/** Square pixels, then the container's turn (clockwise), then its mirror. */
async function upright(frame: Frame, posture: Posture): Promise<Frame> {
  const { width, height, rotation, flip } = posture;
  let turned = frame;
  if (width !== frame.width || height !== frame.height)
    turned = await through(turned, (image) => image.resize(width, height, { fit: 'fill' }));
  if (rotation !== 0) turned = await through(turned, (image) => image.rotate(rotation));
  return flip ? through(turned, (image) => image.flop()) : turned;
}

const bytesOf = (source: ArrayBufferView | ArrayBufferLike): Uint8Array =>
  ArrayBuffer.isView(source)
    ? new Uint8Array(source.buffer, source.byteOffset, source.byteLength)
    : new Uint8Array(source);

const asBadMedia = (path: string, error: unknown) =>
  AttuneError.is(error) ? error : badMedia(path, `cannot be decoded (${reasonOf(error)})`);
