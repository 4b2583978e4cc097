/** What can go wrong with pictures and clips, in one place: what happened, where, the way out. */

import { AttuneError } from '@attune/engine';

const INSTALL_PEERS = 'npm install mediabunny@1.61.0 @napi-rs/webcodecs@1.3.1';
const READABLE = 'png, jpg, webp, gif, mp4, a folder of frames; webm and others with ffmpeg';
export const WRITABLE = '.mp4, .gif, .webp, .png, .jpg, or a folder (no extension, or a final /)';

export const missingMedia = (path: string, reason: string) =>
  new AttuneError('MISSING_FILE', `${path}: cannot be read (${reason}); check the path.`, { path });

export const badMedia = (path: string, what: string) =>
  new AttuneError('BAD_FILE', `${path}: ${what}; check that the file opens elsewhere.`, { path });

export const unknownMedia = (path: string) =>
  new AttuneError(
    'UNSUPPORTED_MEDIA',
    `${path}: not a picture or clip that attune knows; it reads ${READABLE}.`,
    { path },
  );

export const noFrames = (path: string, where: string) =>
  new AttuneError('NO_FRAMES', `${path}: no frames ${where}; at least one is needed.`, { path });

export const tooBig = (path: string, what: string, fix: string) =>
  new AttuneError('MEDIA_TOO_BIG', `${path}: ${what}; ${fix}.`, { path });

export const noVideoTool = (path: string, what: string, why: string) =>
  new AttuneError(
    'PEER_MISSING',
    `${path}: ${what}, and ${why}; install ffmpeg, or for H.264 mp4 run: ${INSTALL_PEERS}`,
    { path, install: INSTALL_PEERS },
  );

export const badOutput = (path: string, what: string, fix: string) =>
  new AttuneError('BAD_OUTPUT', `${path}: ${what}; ${fix}.`, { path });

/** Not the input's fault: a full disk, a lost permission, an encoder that stopped. */
export const writeFailed = (path: string, error: unknown) => {
  const full =
    ['ENOSPC', 'EDQUOT'].includes(codeOf(error) ?? '') || /no space left/i.test(reasonOf(error));
  const what = full ? 'the disk is full' : reasonOf(error);
  const fix = full ? 'free some space and run again' : 'nothing was left behind; run again';
  return new AttuneError('WRITE_FAILED', `${path}: not written, ${what}; ${fix}.`, { path });
};

/** The first line of a foreign error, without its final full stop. */
export function reasonOf(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error);
  return (
    text
      .split('\n')
      .find((line) => line.trim() !== '')
      ?.trim()
      .replace(/\.$/, '') ?? 'no reason given'
  );
}

/** The code of a Node error (`ENOENT` and so on), if it has one. */
export function codeOf(error: unknown): string | undefined {
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  return typeof code === 'string' ? code : undefined;
}
