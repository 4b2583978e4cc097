/** Files that attune does not load: what they are, and what to do about it. */

import { closeSync, openSync, readSync } from 'node:fs';

export interface Foreign {
  readonly kind: string | null;
  readonly reason: string;
  readonly fix: string;
}

const convert =
  'save it again with torch.save (1.6 or later), or convert it to safetensors, with a tool you trust (a pickle runs code when it is opened)';

/** The first bytes of files that are neither safetensors nor zip archives. */
const magics: readonly (readonly [is: (head: string) => boolean, foreign: Foreign])[] = [
  [
    (head) => head.startsWith('\u0080\u0002\u008a\n\u006c\u00fc\u009cF'),
    { kind: 'pickle', reason: 'it is a checkpoint of torch.save before 1.6', fix: convert },
  ],
  [
    (head) => head[0] === '\u0080' && head.charCodeAt(1) <= 5,
    { kind: 'pickle', reason: 'it is a bare Python pickle', fix: convert },
  ],
  [
    (head) => /^(\u0089PNG|GIF8[79]a|\u00ff\u00d8\u00ff|RIFF[^]{4}WEBP)/.test(head),
    { kind: 'picture', reason: 'it is a picture', fix: 'pass it to attune edit' },
  ],
  [
    (head) => head.startsWith('ftyp', 4) || head.startsWith('\u001aE\u00df\u00a3'),
    { kind: 'clip', reason: 'it is a clip', fix: 'pass it to attune edit' },
  ],
  [
    (head) => /^(\u00ef\u00bb\u00bf)?\s*[{[]/.test(head),
    {
      kind: 'json',
      reason: 'it is a JSON file, not weights',
      fix: 'name the folder it lies in, or the stack file it belongs to',
    },
  ],
  [
    (head) => head.startsWith('version https://git-lfs'),
    { kind: null, reason: 'it is a Git LFS pointer, not the file itself', fix: 'run git lfs pull' },
  ],
  [
    (head) => /^\s*<(!doctype|html|\?xml)/i.test(head),
    { kind: null, reason: 'it is a web page', fix: 'download the file itself, not its page' },
  ],
  [
    (head) => head.startsWith('GGUF'),
    { kind: 'gguf', reason: 'it is a GGUF file', fix: 'take the safetensors weights' },
  ],
  [
    (head) => head[0] === '\b' && head[2] === '\u0012',
    { kind: 'onnx', reason: 'it looks like an ONNX model', fix: 'take the safetensors weights' },
  ],
];

/** What a file that is no safetensors is, from its first bytes and its name. */
export function recogniseFile(path: string): Foreign | undefined {
  const head = Buffer.alloc(64);
  const handle = openSync(path, 'r');
  try {
    const size = readSync(handle, head, 0, head.length, 0);
    if (size === 0) return { kind: null, reason: 'it is empty', fix: 'download or write it again' };
    const text = head.toString('latin1', 0, size);
    // The length of a safetensors header may look like anything, but ends with zeros.
    if (text.startsWith('\0\0\0\0{', 4)) return undefined;
    const known = magics.find(([is]) => is(text));
    if (known) return known[1];
    if (text.startsWith('PK\u0003\u0004')) return undefined; // torch.save writes archives
    if (/\.(ckpt|bin|pth?|pkl)$/i.test(path))
      return {
        kind: 'pickle',
        reason: 'by its name it is a PyTorch pickle, which is never opened',
        fix: convert,
      };
    return undefined;
  } finally {
    closeSync(handle);
  }
}

const asFolder = 'name the folder it lies in, with its config.json';

/** Well-formed safetensors that no adapter kind claims, by a key that only they have. */
const layouts: readonly (readonly [key: RegExp, foreign: Foreign])[] = [
  [
    /^(image_proj\.|ip_adapter\.)/,
    {
      kind: 'ip-adapter',
      reason: 'it is an IP-Adapter',
      fix: 'install a plugin that reads it, such as attune-ip-adapter',
    },
  ],
  [
    /^clip_[lg]$/,
    {
      kind: 'textual-inversion',
      reason: 'it is a textual inversion for the two text encoders of SDXL',
      fix: 'take one made for Stable Diffusion 1 or 2',
    },
  ],
  [
    /^(adapter\.)?body\.\d+\./,
    {
      kind: 't2i-adapter',
      reason: 'it is a T2I-Adapter',
      fix: 'there is no adapter kind for it yet; take a ControlNet of the same kind of hint',
    },
  ],
  [
    /^conv_norm_out\.weight$/,
    { kind: 'unet', reason: 'it holds the weights of a UNet alone', fix: asFolder },
  ],
  [
    /^(encoder|decoder)\.(conv_in|layers\.0)\.weight$/,
    { kind: 'vae', reason: 'it holds the weights of an autoencoder alone', fix: asFolder },
  ],
  [
    /^(text_model\.)?embeddings\.token_embedding\.weight$/,
    { kind: 'text_encoder', reason: 'it holds the weights of a text encoder alone', fix: asFolder },
  ],
];

/** Everything that is recognised and refused. */
export const foreign: readonly Foreign[] = [...magics, ...layouts].map(([, known]) => known);

/** What a set of tensor names is. */
export function recogniseNames(names: readonly string[]): Foreign {
  if (names.length === 0)
    return { kind: null, reason: 'it holds no tensors', fix: 'download or write it again' };
  const known = layouts.find(([key]) => names.some((name) => key.test(name)));
  return (
    known?.[1] ?? {
      kind: null,
      reason: `its ${names.length} tensors (first ${names[0].slice(0, 100)}) are those of no adapter or model that is known here`,
      fix: 'install the plugin that reads it, or take another file',
    }
  );
}
