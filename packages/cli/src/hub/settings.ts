/** Which hub, as whom, and whether at all: the environment variables of Hugging Face's own tools. */

import { readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';

import { type Environment, hubCache, hubHome } from '@attune/core';
import { AttuneError } from '@attune/engine';

export interface HubSettings {
  /** Without a slash at the end. */
  readonly endpoint: string;
  readonly cache: string;
  readonly token?: { readonly value: string; readonly from: string };
  readonly offline: boolean;
  /** Milliseconds without a byte after which a connection counts as cut. */
  readonly timeout: number;
}

const isTrue = (value: string | undefined): boolean =>
  ['1', 'ON', 'YES', 'TRUE'].includes((value ?? '').toUpperCase());

/**
 * HF_ENDPOINT, HF_HOME, HF_HUB_CACHE, HF_TOKEN, HF_TOKEN_PATH, HF_HUB_DISABLE_IMPLICIT_TOKEN, HF_HUB_OFFLINE and
 * HF_HUB_DOWNLOAD_TIMEOUT (seconds). Throws BAD_ENVIRONMENT for one that cannot be used.
 */
export function hubSettings(env: Environment = process.env): HubSettings {
  const endpoint = (env.HF_ENDPOINT || 'https://huggingface.co').replace(/\/+$/, '');
  if (!URL.canParse(endpoint) || !/^https?:$/.test(new URL(endpoint).protocol))
    throw new AttuneError(
      'BAD_ENVIRONMENT',
      `HF_ENDPOINT is "${endpoint}", which is no http or https address.`,
    );
  const token = tokenOf(env);
  return {
    endpoint,
    cache: hubCache(env),
    ...(token ? { token } : {}),
    offline: isTrue(env.HF_HUB_OFFLINE || env.TRANSFORMERS_OFFLINE),
    timeout: 1000 * (Number(env.HF_HUB_DOWNLOAD_TIMEOUT) || 30),
  };
}

/** From HF_TOKEN (or its older name), else from the file that `hf auth login` writes. */
function tokenOf(env: Environment): HubSettings['token'] {
  if (isTrue(env.HF_HUB_DISABLE_IMPLICIT_TOKEN)) return undefined;
  const path = (env.HF_TOKEN_PATH || join(hubHome(env), 'token')).replace(/^~(?=\/)/, homedir());
  const candidates = [
    ['HF_TOKEN', env.HF_TOKEN],
    ['HUGGING_FACE_HUB_TOKEN', env.HUGGING_FACE_HUB_TOKEN],
    [path, fileText(path)],
  ] as const;
  for (const [from, text] of candidates) {
    const value = (text ?? '').trim();
    if (value === '') continue;
    if (!/^[\u0021-\u007e]+$/.test(value))
      throw new AttuneError(
        'BAD_ENVIRONMENT',
        `The token in ${from} holds more than letters and digits.`,
      );
    return { value, from };
  }
  return undefined;
}

function fileText(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
}
