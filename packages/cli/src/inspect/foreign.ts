/** Files that attune does not load, by how they begin or what they are called: what they are, and what to do. */

import { closeSync, openSync, readSync } from 'node:fs';

export interface Foreign {
  readonly kind: string | null;
  readonly reason: string;
  readonly fix: string;
}

const convert =
  'save it again with torch.save (1.6 or later), or convert it to safetensors, with a tool you trust (a pickle runs code when it is opened)';
const takeSafetensors = 'take the safetensors weights';
const unpack = 'unpack it, and name the file or the folder that was in it';
const again = 'download it again';

const starts =
  (...texts: readonly string[]) =>
  (head: string): boolean =>
    texts.some((text) => head.startsWith(text));
const matches =
  (pattern: RegExp) =>
  (head: string): boolean =>
    pattern.test(head);

/** The first bytes of files that are neither safetensors nor zip archives. */
const magics: readonly (readonly [is: (head: string) => boolean, foreign: Foreign])[] = [
  [
    starts('\u0080\u0002\u008a\n\u006c\u00fc\u009cF'),
    { kind: 'pickle', reason: 'it is a checkpoint of torch.save before 1.6', fix: convert },
  ],
  [
    (head) => head[0] === '\u0080' && head.charCodeAt(1) <= 5,
    { kind: 'pickle', reason: 'it is a bare Python pickle', fix: convert },
  ],
  [
    matches(/^(\u0089PNG|GIF8[79]a|\u00ff\u00d8\u00ff|RIFF[^]{4}WEBP)/),
    { kind: 'picture', reason: 'it is a picture', fix: 'pass it to attune edit' },
  ],
  [
    (head) => head.startsWith('ftyp', 4) || head.startsWith('\u001aE\u00df\u00a3'),
    { kind: 'clip', reason: 'it is a clip', fix: 'pass it to attune edit' },
  ],
  [
    matches(/^(\u00ef\u00bb\u00bf)?\s*[{[]/),
    {
      kind: 'json',
      reason: 'it is a JSON file, not weights',
      fix: 'name the folder it lies in, or the stack file it belongs to; where it should be weights, look into it (it may be the message of a site) and download them again',
    },
  ],
  [
    matches(/^version https:\/\/git-lfs/),
    { kind: null, reason: 'it is a Git LFS pointer, not the file itself', fix: 'run git lfs pull' },
  ],
  [
    matches(/^(\u00ef\u00bb\u00bf)?\s*<(!doctype html|html)/i),
    {
      kind: null,
      reason: 'it is a web page',
      fix: 'download the file itself, not its page; where the page asks for it, log in or accept its terms first',
    },
  ],
  [
    matches(/^(\u00ef\u00bb\u00bf)?\s*<\?xml/i),
    { kind: null, reason: 'it is an XML file, not weights', fix: takeSafetensors },
  ],
  [
    matches(/^(GGUF|lmgg|tjgg|fmgg)/),
    { kind: 'gguf', reason: 'it is a GGUF file', fix: `${takeSafetensors} it was made from` },
  ],
  [
    // A SavedModel's schema is of version 1; an ONNX model's is never below 3.
    (head) => starts('\b\u0001\u0012', '\u0089HDF\r\n')(head) || head.startsWith('TFL3', 4),
    {
      kind: 'tensorflow',
      reason: 'it is a TensorFlow or Keras model',
      fix: 'take the PyTorch weights of the same model, as safetensors',
    },
  ],
  [
    (head) => head[0] === '\b' && head[2] === '\u0012',
    { kind: 'onnx', reason: 'it looks like an ONNX model', fix: takeSafetensors },
  ],
  [matches(/^\u0093NUMPY/), { kind: 'numpy', reason: 'it is a NumPy array', fix: takeSafetensors }],
  [
    (head) =>
      starts(
        '7z\u00bc\u00af',
        'Rar!',
        '\u001f\u008b',
        '\u00fd7zXZ',
        'BZh',
        '(\u00b5/\u00fd',
      )(head) || head.startsWith('ustar', 257),
    { kind: 'archive', reason: 'it is a packed archive', fix: unpack },
  ],
  [
    (head) => head.replaceAll('\0', '') === '',
    { kind: null, reason: 'it begins with nothing but zeros: a download that was cut', fix: again },
  ],
  [
    matches(/^[\t\n\r -~]+$/),
    {
      kind: null,
      reason: 'it is a text file, not weights',
      fix: 'read it: it may be the message of a site that wants you to log in; then download the file again',
    },
  ],
];

/** Files that are known by their names alone. */
const called: readonly (readonly [name: RegExp, foreign: Foreign])[] = [
  [
    /\.msgpack$/i,
    {
      kind: 'flax',
      reason: 'by its name it holds the weights of Flax',
      fix: 'take the PyTorch weights of the same model, as safetensors',
    },
  ],
  [
    /\.(index|meta|data-\d+-of-\d+)$/i,
    {
      kind: 'tensorflow',
      reason: 'by its name it is a part of a TensorFlow checkpoint',
      fix: 'take the PyTorch weights of the same model, as safetensors',
    },
  ],
  [
    /\.(incomplete|part|crdownload|aria2|tmp)$/i,
    { kind: null, reason: 'by its name it is a download that has not ended', fix: again },
  ],
  [
    /\.(ckpt|bin|pth?|pkl)$/i,
    {
      kind: 'pickle',
      reason: 'by its name it is a checkpoint of torch.save, but it begins like none',
      fix: `${again}, or convert it to safetensors with what wrote it`,
    },
  ],
];

/** What files of torch.save hold, below a folder of their own. */
const ofTorch = /^[^/]+\/(data\.pkl$|data\/|version$|byteorder$|\.|constants\.pkl$|code\/)/;

/** A zip archive of other files, by the name of its first. */
function recogniseZip(head: Buffer): Foreign | undefined {
  const name = head.toString('latin1', 30, 30 + head.readUInt16LE(26));
  if (name === '' || 30 + head.readUInt16LE(26) > head.length || ofTorch.test(name))
    return undefined;
  return {
    kind: 'archive',
    reason: `it is a zip archive, but none that torch.save writes: its first file is ${name.slice(0, 100)}`,
    fix: name.endsWith('.npy') ? takeSafetensors : unpack,
  };
}

/** Bytes that are looked at. */
const HEAD = 512;

/** What a file that is no safetensors is, from its first bytes and its name. */
export function recogniseFile(path: string): Foreign | undefined {
  const head = Buffer.alloc(HEAD);
  const handle = openSync(path, 'r');
  try {
    const size = readSync(handle, head, 0, head.length, 0);
    if (size === 0) return { kind: null, reason: 'it is empty', fix: 'download or write it again' };
    const text = head.toString('latin1', 0, size);
    // The length of a safetensors header may look like anything, but ends with zeros.
    if (text.startsWith('\0\0\0\0{', 4)) return undefined;
    const known = magics.find(([is]) => is(text));
    if (known) return known[1];
    if (text.startsWith('PK\u0003\u0004')) return size > 30 ? recogniseZip(head) : undefined;
    return called.find(([name]) => name.test(path))?.[1];
  } finally {
    closeSync(handle);
  }
}

/** Everything that is told so. */
export const foreignFiles: readonly Foreign[] = [...magics, ...called].map(([, known]) => known);
