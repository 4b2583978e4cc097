/** Questions at a terminal, one line each. */

import { createInterface, type Interface } from 'node:readline';

import { AttuneError } from '@attune/engine';

import { printable } from '../terminal.ts';

/** Where questions go and answers come from. */
export interface Terminal {
  readonly input: NodeJS.ReadableStream;
  readonly output: NodeJS.WritableStream;
}

/** Asks one thing after the other; answers typed ahead are kept in order. */
export class Dialogue {
  readonly #lines: Interface;
  readonly #output: NodeJS.WritableStream;
  readonly #typed: string[] = [];
  #waits: { answer: (line: string) => void; leave: (error: unknown) => void } | undefined;
  #interrupted = false;
  #closed = false;

  private constructor({ input, output }: Terminal) {
    this.#output = output;
    this.#lines = createInterface({ input, output, terminal: true });
    this.#lines.on('line', (line) => {
      if (this.#waits) this.#waits.answer(line);
      else this.#typed.push(line);
    });
    this.#lines.on('SIGINT', () => {
      this.#interrupted = true;
      this.#lines.close();
    });
    this.#lines.on('close', () => {
      this.#closed = true;
      this.#waits?.leave(interrupted());
    });
  }

  /** Holds a dialogue on the process's terminal, or another one. Throws INTERRUPTED at Ctrl-C and Ctrl-D. */
  static async with<T>(
    hold: (dialogue: Dialogue) => Promise<T>,
    terminal: Terminal = { input: process.stdin, output: process.stderr },
  ): Promise<T> {
    const dialogue = new Dialogue(terminal);
    try {
      const made = await hold(dialogue);
      if (dialogue.#interrupted) throw interrupted();
      return made;
    } finally {
      dialogue.#lines.close();
    }
  }

  say(text: string): void {
    this.#output.write(`${printable(text)}\n`);
  }

  /** Asks until `read` takes the answer: what it throws of ours is said, then it is asked again. */
  async ask<T>(question: string, read: (answer: string) => T | Promise<T>): Promise<T> {
    for (;;) {
      const line = await this.#line(question);
      try {
        return await read(line.trim());
      } catch (error) {
        if (!AttuneError.is(error)) throw error;
        this.say(`  ${error.message}`);
      }
    }
  }

  #line(question: string): Promise<string> {
    return new Promise((settle, fail) => {
      const answer = (line: string): void => {
        this.#waits = undefined;
        settle(line);
      };
      const leave = (error: unknown): void => {
        this.#waits = undefined;
        fail(error);
      };
      // A closed interface cannot prompt, and what was typed ahead still has to be told from its question.
      if (this.#closed) this.#output.write(`${question} `);
      else {
        this.#lines.setPrompt(`${question} `);
        this.#lines.prompt();
      }
      const ahead = this.#interrupted ? undefined : this.#typed.shift();
      if (ahead !== undefined) answer(ahead);
      else if (this.#closed) leave(interrupted());
      else this.#waits = { answer, leave };
    });
  }
}

const interrupted = (): AttuneError =>
  new AttuneError('INTERRUPTED', 'stopped; nothing was written');
