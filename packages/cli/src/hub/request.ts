/** Requests to a hub: redirects without the token, proxies, waits that grow, and what a refusal means. */

import { setTimeout as sleep } from 'node:timers/promises';

import { AttuneError } from '@attune/engine';
import type { Dispatcher } from 'undici';

import type { HubSettings } from './settings.ts';

export interface Answer {
  readonly status: number;
  /** Lower-case names. Of a chain of redirects on the hub itself, the hub's own headers of every answer. */
  readonly headers: Readonly<Record<string, string>>;
  /** True where the last answer leads to another host and was not followed. */
  readonly leadsAway: boolean;
  readonly body: Dispatcher.ResponseData['body'];
}

/** A failure that may pass: a cut connection, a server that is busy. */
export class Passing extends Error {
  /** Milliseconds that the server asks to wait. */
  readonly wait: number;

  constructor(message: string, wait = 0) {
    super(message);
    this.wait = wait;
  }
}

interface Question {
  readonly method: 'GET' | 'HEAD';
  readonly range?: string;
  /** Whether redirects to other hosts are followed (without the token). */
  readonly away?: boolean;
}

/** What a refusal is about, for its message. */
export interface Subject {
  readonly repo: string;
  readonly revision: string;
  readonly file?: string;
}

/** Tries without progress before a failure that may pass is final, and the first wait in milliseconds. */
export interface Patience {
  readonly tries: number;
  readonly wait: number;
}

const busy = new Set([408, 425, 429, 500, 502, 503, 504]);
const redirects = new Set([301, 302, 303, 307, 308]);

export class HubClient {
  readonly settings: HubSettings;
  readonly patience: Patience;
  #opened: ReturnType<typeof connect> | undefined;

  constructor(settings: HubSettings, patience: Patience = { tries: 6, wait: 300 }) {
    this.settings = settings;
    this.patience = patience;
  }

  async close(): Promise<void> {
    await (await this.#opened)?.agent.destroy();
  }

  /** One request. Throws Passing for what may pass, AttuneError for a refusal. */
  async ask(
    url: string,
    question: Question,
    subject: Subject,
    signal?: AbortSignal,
  ): Promise<Answer> {
    const { endpoint, token } = this.settings;
    const home = new URL(endpoint).origin;
    const hubHeaders: Record<string, string> = {};
    let at = new URL(url);
    for (let hops = 0; hops < 10; hops++) {
      const atHome = at.origin === home;
      const { statusCode, headers, body } = await this.#send(at, signal, {
        method: question.method,
        headers: {
          'user-agent': 'attune',
          'accept-encoding': 'identity',
          ...(question.range === undefined ? {} : { range: question.range }),
          ...(token && atHome ? { authorization: `Bearer ${token.value}` } : {}),
        },
      });
      const plain: Record<string, string> = {};
      for (const [name, value] of Object.entries(headers))
        plain[name] = Array.isArray(value) ? value.join(', ') : (value ?? '');
      if (atHome)
        for (const [name, value] of Object.entries(plain))
          if (name.startsWith('x-')) hubHeaders[name] ??= value;
      const answer = { status: statusCode, headers: { ...plain, ...hubHeaders }, body };
      if (!redirects.has(statusCode) || plain.location === undefined) {
        // 416: more was asked for than there is; who asked knows what to do.
        if (statusCode < 400 || statusCode === 416) return { ...answer, leadsAway: false };
        await body.dump().catch(() => undefined);
        // Another host's address holds for a while only; the hub gives a new one.
        if (busy.has(statusCode) || !atHome)
          throw new Passing(`${at.host} answers ${statusCode}`, retryAfter(plain['retry-after']));
        throw refusal(statusCode, answer.headers, subject, {
          settings: this.settings,
          host: at.host,
        });
      }
      const next = nextPlace(plain.location, at);
      if (next.origin !== home && !question.away) return { ...answer, leadsAway: true };
      await body.dump().catch(() => undefined);
      at = next;
    }
    throw new AttuneError('BAD_DOWNLOAD', `${url} is redirected in a circle.`);
  }

  async #send(
    url: URL,
    signal: AbortSignal | undefined,
    options: { method: 'GET' | 'HEAD'; headers: Record<string, string> },
  ): Promise<Dispatcher.ResponseData> {
    const { request, agent } = await (this.#opened ??= connect(this.settings));
    try {
      return await request(url, {
        ...options,
        dispatcher: agent,
        ...(signal ? { signal } : {}),
      });
    } catch (error) {
      signal?.throwIfAborted();
      throw new Passing(`${url.host} cannot be reached: ${reasonOf(error)}`);
    }
  }

  /**
   * Runs `attempt` until it succeeds. Of failures that may pass, so many in a row without progress are
   * one too many: NETWORK. Waits double from one to the next, to half a minute.
   */
  async persist<T>(
    attempt: (progressed: () => void) => Promise<T>,
    what: string,
    signal?: AbortSignal,
  ): Promise<T> {
    const { tries, wait } = this.patience;
    for (let failed = 1; ; failed++) {
      let moved = false;
      try {
        return await attempt(() => (moved = true));
      } catch (error) {
        signal?.throwIfAborted();
        if (!(error instanceof Passing)) throw error;
        if (moved) failed = 1;
        if (failed >= tries)
          throw new AttuneError(
            'NETWORK',
            `${what} failed ${tries} times in a row: ${error.message}. What is there is kept: try again later.`,
          );
        const pause = Math.max(Math.min(wait * 2 ** (failed - 1), 30_000), error.wait);
        await sleep(pause, undefined, signal ? { signal } : {});
      }
    }
  }
}

/** Loaded when something is asked for: undici reserves 10 GiB of addresses, which `ulimit -v` may not grant. */
async function connect({ timeout }: HubSettings) {
  const { EnvHttpProxyAgent, request } = await import('undici');
  const times = { headersTimeout: timeout, bodyTimeout: timeout };
  return { request, agent: new EnvHttpProxyAgent({ connect: { timeout }, ...times }) };
}

/** The deepest reason of a failed connection, in a line. */
export function reasonOf(error: unknown): string {
  if (error instanceof AggregateError && error.errors.length > 0) return reasonOf(error.errors[0]);
  const { cause, message, code } = error as { cause?: unknown; message?: string; code?: string };
  if (cause) return reasonOf(cause);
  return (message || code || String(error)).split('\n')[0];
}

function nextPlace(location: string, from: URL): URL {
  if (!URL.canParse(location, from.href))
    throw new AttuneError('BAD_DOWNLOAD', `${from.host} redirects to what is no address.`);
  const next = new URL(location, from.href);
  const safe =
    next.protocol === 'https:' || (next.protocol === 'http:' && from.protocol === 'http:');
  if (!safe)
    throw new AttuneError(
      'BAD_DOWNLOAD',
      `${from.host} redirects from ${from.protocol} to ${next.protocol}, which is not followed.`,
    );
  return next;
}

/** Milliseconds, at most a minute: a server does not decide how long a command hangs. */
const retryAfter = (text: string | undefined): number =>
  Math.min(Math.max(Number(text ?? 0) || 0, 0), 60) * 1000;

/** What a refused request means, by the hub's own error codes before the status. */
function refusal(
  status: number,
  headers: Readonly<Record<string, string>>,
  { repo, revision, file }: Subject,
  { settings, host }: { settings: HubSettings; host: string },
): AttuneError {
  const { endpoint, token } = settings;
  const said = (headers['x-error-message'] ?? '').slice(0, 200).replace(/\.$/, '');
  const page = `${endpoint}/${repo}`;
  const who = token
    ? `the account of the token from ${token.from}`
    : 'no token (HF_TOKEN is not set)';
  const fail = (code: string, message: string) => new AttuneError(code, message, { status, repo });
  switch (headers['x-error-code']) {
    case 'GatedRepo':
      return fail(
        'GATED',
        `hf:${repo} is gated, and ${who} has no access: accept its conditions at ${page}${token ? '' : ', then set HF_TOKEN to a token of that account'}.`,
      );
    case 'RevisionNotFound':
      return fail('NO_REVISION', `hf:${repo} has no branch, tag or commit ${revision}.`);
    case 'EntryNotFound':
      return fail('NO_FILE', `hf:${repo} has no file ${file} at ${revision}.`);
    default:
  }
  if (status === 401 && /invalid (credentials|username|user token)/i.test(said))
    return fail(
      'BAD_TOKEN',
      `${host} refuses the token${token ? ` from ${token.from}` : ''} (${said}): make another at ${endpoint}/settings/tokens.`,
    );
  if (status === 401 || status === 404)
    return fail(
      'NO_REPO',
      token
        ? `hf:${repo} does not exist, or ${who} may not see it.`
        : `hf:${repo} does not exist, or it is private: check the name, or set HF_TOKEN.`,
    );
  if (status === 403)
    return fail(
      'FORBIDDEN',
      `${host} forbids access to hf:${repo}${said ? ` (${said})` : ''}: ${token ? `check what the token from ${token.from} may read` : 'it may need a token: set HF_TOKEN'}.`,
    );
  return fail(
    'BAD_DOWNLOAD',
    `${host} answers ${status}${said ? ` (${said})` : ''} for hf:${repo}.`,
  );
}
