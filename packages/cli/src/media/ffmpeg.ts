/** The user's own ffmpeg as a child process: reads what nothing else here reads, writes mp4 where the optional packages are absent. */

import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { basename, dirname, join } from 'node:path';
import { promisify } from 'node:util';

import { badMedia, codeOf, noFrames, noVideoTool, reasonOf, tooBig } from './errors.ts';
import { checkFrame, type Frame, type Frames } from './frame.ts';
import { evenSize } from './mp4-write.ts';
import { type Notes, notesLine } from './notes.ts';
import { PATIENCE, within } from './pace.ts';
import { MAX_PIXELS, type MediaSource } from './source.ts';

/** Containers that carry their own pictures: no playlists, no lists of other files, no network. */
const demuxers =
  'matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,avi,flv,mpegts,mpeg,ogg,asf,ivf,h264,hevc,m4v,mjpeg';
const confined = ['-protocol_whitelist', 'file,pipe', '-format_whitelist', demuxers];

interface Probe {
  readonly streams?: readonly ProbedStream[];
  readonly format?: { readonly format_name?: string };
}
interface ProbedStream {
  readonly codec_type?: string;
  readonly width?: number;
  readonly height?: number;
  readonly avg_frame_rate?: string;
  readonly r_frame_rate?: string;
  readonly sample_aspect_ratio?: string;
  readonly nb_frames?: string;
  readonly side_data_list?: readonly { readonly rotation?: number }[];
}

/** Opens any video by ffprobe; `why` says what else was tried, for the error when there is no ffmpeg. */
export async function openWithFfmpeg(
  path: string,
  ffmpeg: string,
  why: string,
): Promise<MediaSource> {
  const { streams = [], format } = await probe(path, ffmpeg, why);
  const video = streams.find(({ codec_type: type }) => type === 'video');
  if (!video) throw badMedia(path, 'it holds no video track');
  const { width: across = 0, height = 0 } = video;
  const width = Math.round(across * (ratio(video.sample_aspect_ratio, ':') || 1));
  if (!(width > 0 && height > 0)) throw noFrames(path, 'in its video track');
  if (width * height > MAX_PIXELS)
    throw tooBig(path, `${width}×${height} pixels`, 'make it smaller first');
  const turned = (video.side_data_list ?? []).some(({ rotation = 0 }) => rotation % 180 !== 0);
  const size = turned ? { width: height, height: width } : { width, height };
  const rates = [video.avg_frame_rate, video.r_frame_rate].map((rate) => ratio(rate, '/'));
  const fps = rates.find((rate) => rate > 0 && rate <= 1000) ?? 25;
  return {
    path,
    format: format?.format_name?.split(',')[0] ?? 'video',
    kind: 'clip',
    ...size,
    fps,
    frameCount: Number(video.nb_frames) || undefined,
    audio: streams.some(({ codec_type: type }) => type === 'audio'),
    frames: () => readFrames(path, ffmpeg, size, fps),
  };
}

async function probe(path: string, ffmpeg: string, why: string): Promise<Probe> {
  const ffprobe = join(dirname(ffmpeg), basename(ffmpeg).replace(/ffmpeg/, 'ffprobe'));
  const command = dirname(ffmpeg) === '.' ? basename(ffprobe) : ffprobe;
  const options = ['-v', 'error', ...confined, '-of', 'json', '-show_streams', '-show_format'];
  try {
    const { stdout } = await promisify(execFile)(command, [...options, `file:${path}`], {
      timeout: PATIENCE,
      maxBuffer: 2 ** 24,
    });
    return JSON.parse(stdout) as Probe;
  } catch (error) {
    if (codeOf(error) === 'ENOENT' || codeOf(error) === 'EACCES')
      throw noVideoTool(path, why, `${command} cannot be found`);
    const said = error instanceof Error && 'stderr' in error ? String(error.stderr) : '';
    throw badMedia(path, `ffmpeg cannot read it (${tail(said) || reasonOf(error)})`);
  }
}

/** Frames at a constant rate; ffmpeg turns them upright and makes their pixels square. */
async function* readFrames(
  path: string,
  ffmpeg: string,
  { width, height }: { width: number; height: number },
  fps: number,
): AsyncGenerator<Frame> {
  const filter = `fps=${fps},scale=${width}:${height},setsar=1`;
  const child = spawn(
    ffmpeg,
    ['-v', 'error', '-nostdin', '-xerror', ...confined, '-i', `file:${path}`]
      .concat(['-map', '0:v:0', '-vf', filter])
      .concat(['-f', 'rawvideo', '-pix_fmt', 'rgb24', 'pipe:1']),
    { stdio: ['ignore', 'pipe', 'pipe'] },
  );
  const end = ending(child);
  try {
    const chunks: AsyncIterator<Buffer> = child.stdout[Symbol.asyncIterator]();
    const stalled = () => badMedia(path, 'ffmpeg stopped giving frames');
    let data = new Uint8Array(width * height * 3);
    let filled = 0;
    let count = 0;
    for (;;) {
      const { value: chunk, done } = await within(chunks.next(), stalled);
      if (done) break;
      for (let at = 0; at < chunk.length;) {
        const part = chunk.subarray(at, at + data.length - filled);
        data.set(part, filled);
        at += part.length;
        filled += part.length;
        if (filled < data.length) break;
        yield { data, width, height, delay: 1000 / fps };
        count++;
        data = new Uint8Array(data.length);
        filled = 0;
      }
    }
    const { code, said, cut } = await end;
    if (code !== 0 || filled > 0 || cut)
      throw badMedia(path, `ffmpeg cannot read it all (${said})`);
    if (count === 0) throw noFrames(path, 'in its video track');
  } finally {
    child.kill('SIGKILL');
  }
}

/** Throws PEER_MISSING where there is no ffmpeg to write `out`; `why` says what else was tried. */
export async function assertFfmpeg(out: string, ffmpeg: string, why: string): Promise<void> {
  const { missing } = await ending(spawn(ffmpeg, ['-version'], { stdio: 'ignore' }));
  if (missing) throw noVideoTool(out, why, `${ffmpeg} cannot be found`);
}

/** Frames of one size and rate → an H.264 mp4 at `out`. Odd sizes grow by one repeated row or column. */
export async function writeWithFfmpeg(
  out: string,
  frames: Frames,
  fps: number,
  ffmpeg: string,
  notes: Notes,
  why: string,
): Promise<void> {
  let child: ChildProcess | undefined;
  let end: Promise<Ending> | undefined;
  let first: Frame | undefined;
  try {
    for await (const frame of frames) {
      checkFrame('mp4', frame, first);
      if (!child || !end) {
        first = frame;
        child = spawn(ffmpeg, encoderOptions(out, frame, fps, notes), {
          stdio: ['pipe', 'ignore', 'pipe'],
        });
        child.stdin?.on('error', () => undefined); // its exit tells more
        end = ending(child);
      }
      const { stdin } = child;
      if (!stdin?.writable) break;
      if (!stdin.write(frame.data))
        await Promise.race([new Promise((resolve) => stdin.once('drain', resolve)), end]);
    }
    child?.stdin?.end();
    const { code, said, missing } = (await end) ?? {
      code: 1,
      said: 'it got no frames',
      missing: false,
    };
    if (missing) throw noVideoTool(out, why, `${ffmpeg} cannot be found`);
    if (code !== 0) throw new Error(`ffmpeg failed (${said})`);
  } finally {
    child?.kill('SIGKILL');
  }
}

function encoderOptions(out: string, frame: Frame, fps: number, notes: Notes): string[] {
  const { width, height } = evenSize(frame);
  const pad = `pad=${width}:${height},fillborders=right=${width - frame.width}:bottom=${height - frame.height}:mode=smear`;
  const colours = 'scale=out_color_matrix=bt709:out_range=tv';
  return ['-v', 'error', '-y', '-f', 'rawvideo', '-pix_fmt', 'rgb24']
    .concat(['-s', `${frame.width}x${frame.height}`, '-framerate', `${fps}`, '-i', 'pipe:0'])
    .concat(['-vf', `${pad},${colours}`, '-c:v', 'libx264', '-crf', '14', '-pix_fmt', 'yuv420p'])
    .concat(['-color_primaries', 'bt709', '-color_trc', 'bt709', '-colorspace', 'bt709'])
    .concat(Object.keys(notes).length > 0 ? ['-metadata', `comment=${notesLine(notes)}`] : [])
    .concat(['-movflags', '+faststart', '-f', 'mp4', `file:${out}`]);
}

interface Ending {
  readonly code: number;
  /** The last line it said. */
  readonly said: string;
  /** It spoke of bytes that are missing or broken; it may end well all the same. */
  readonly cut: boolean;
  readonly missing: boolean;
}

/** How the process ends. Never rejects. */
function ending(child: ChildProcess): Promise<Ending> {
  let said = '';
  child.stderr?.on('data', (text: Buffer) => (said = (said + text.toString()).slice(-2000)));
  return new Promise((resolve) => {
    child.once('error', (error) => {
      const missing = codeOf(error) === 'ENOENT' || codeOf(error) === 'EACCES';
      resolve({ code: 1, said: reasonOf(error), cut: false, missing });
    });
    child.once('close', (code) => {
      const cut = /prematurely|truncat|partial|corrupt/i.test(said);
      resolve({ code: code ?? 1, said: tail(said) || 'it says nothing', cut, missing: false });
    });
  });
}

const tail = (text: string): string => text.trim().split('\n').at(-1)?.trim() ?? '';

/** `a/b` or `a:b` as a number; 0 where there is none. */
function ratio(text: string | undefined, sign: string): number {
  const [a, b] = (text ?? '').split(sign).map(Number);
  return a > 0 && b > 0 ? a / b : 0;
}
