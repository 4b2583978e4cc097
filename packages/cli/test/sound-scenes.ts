/** Small clips with sound, and the sound of a clip packet by packet. */

import { loadPeers, writeMedia } from '../src/media/index.ts';
import { scene } from './media-scenes.ts';

const loaded = await loadPeers();
if (typeof loaded === 'string') throw new Error(loaded);
const { bunny, codecs } = loaded;

export const RATE = 48_000;
export const PACKET = 1024;

/** A rising tone, encoded as AAC. */
async function tone(seconds: number) {
  const packets: { packet: InstanceType<typeof bunny.EncodedPacket>; config: unknown }[] = [];
  const encoder = new codecs.AudioEncoder({
    output: (chunk, meta) => {
      const data = new Uint8Array(chunk.byteLength);
      chunk.copyTo(data);
      const at = (packets.length * PACKET) / RATE;
      packets.push({
        packet: new bunny.EncodedPacket(data, 'key', at, PACKET / RATE),
        config: meta?.decoderConfig,
      });
    },
    error: (error) => {
      throw error;
    },
  });
  encoder.configure({ codec: 'mp4a.40.2', sampleRate: RATE, numberOfChannels: 1, bitrate: 64_000 });
  const data = Float32Array.from({ length: seconds * RATE }, (_, i) =>
    Math.sin((i / RATE) * (2000 + i / 50)),
  );
  const format = 'f32' as const;
  const shape = { format, sampleRate: RATE, numberOfChannels: 1, numberOfFrames: data.length };
  encoder.encode(new codecs.AudioData({ ...shape, timestamp: 0, data }));
  await encoder.flush();
  encoder.close();
  return packets;
}

/** A clip of `frames` frames of 125 ms with `seconds` of sound that begins `late` after them. */
export async function soundClip(
  path: string,
  frames: number,
  seconds: number,
  late = 0,
): Promise<void> {
  const silent = `${path}.silent.mp4`;
  await writeMedia(silent, scene(64, 48, frames));
  const input = new bunny.Input({
    source: new bunny.FilePathSource(silent),
    formats: [bunny.MP4],
  });
  const format = new bunny.Mp4OutputFormat();
  const output = new bunny.Output({ format, target: new bunny.FilePathTarget(path) });
  const [video, audio] = [
    new bunny.EncodedVideoPacketSource('avc'),
    new bunny.EncodedAudioPacketSource('aac'),
  ];
  output.addVideoTrack(video);
  output.addAudioTrack(audio);
  await output.start();
  const track = await input.getPrimaryVideoTrack();
  const decoderConfig = (await track?.getDecoderConfig()) ?? undefined;
  for await (const packet of new bunny.EncodedPacketSink(track!).packets())
    await video.add(packet, decoderConfig ? { decoderConfig } : {});
  for (const { packet, config } of await tone(seconds))
    await audio.add(packet.clone({ timestamp: packet.timestamp + late }), {
      decoderConfig: config as AudioDecoderConfig,
    });
  await output.finalize();
  input.dispose();
}

/** Packets of the sound: when, for how long, which bytes. */
export async function soundOf(path: string) {
  const input = new bunny.Input({ source: new bunny.FilePathSource(path), formats: [bunny.MP4] });
  try {
    const track = await input.getPrimaryAudioTrack();
    if (!track) return undefined;
    const packets: { at: number; bytes: string }[] = [];
    for await (const { timestamp, data } of new bunny.EncodedPacketSink(track).packets())
      packets.push({ at: timestamp, bytes: Buffer.from(data).toString('base64') });
    const config = await track.getDecoderConfig();
    return { codec: await track.getCodec(), config, packets };
  } finally {
    input.dispose();
  }
}
