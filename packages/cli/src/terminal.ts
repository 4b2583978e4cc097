/** What people read while a command runs. Results go to stdout, all of this to stderr. */

/** Text for a terminal: what a hostile file calls its tensors may hold control characters. */
export const printable = (text: string): string =>
  // eslint-disable-next-line no-control-regex
  text.replaceAll(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g, '\uFFFD');

/** The first few of some names, and how many more there are. */
export function firstOf(names: readonly string[], most = 3): string {
  const shown = names.slice(0, most).join(', ');
  return names.length > most ? `${shown} and ${names.length - most} more` : shown;
}

export const say = (text: string): void => {
  process.stderr.write(`${settled()}${text}\n`);
};

export const warn = (text: string): void => say(`warning: ${printable(text)}`);

/** Whether the terminal's last line is a progress that the next one replaces. */
let open = false;

/** One line that replaces the one before on a terminal, a line of its own elsewhere. */
export function progress(text: string): void {
  if (!process.stderr.isTTY) return say(text);
  process.stderr.write(`\r\u001b[K${text}`);
  open = true;
}

/** What ends an open progress line. */
function settled(): string {
  if (!open) return '';
  open = false;
  return '\n';
}

/** Seconds per step since the first one seen, and an estimate of what is left. */
export function pace(total: number): (step: number) => string {
  const began = performance.now();
  let first: number | undefined;
  return (step) => {
    first ??= step;
    const each = (performance.now() - began) / (step - first + 1) / 1000;
    return `${each.toFixed(2)} s/step  ${Math.round(each * (total - step))} s left`;
  };
}

/** A reader that stops early (`attune … | head`) ends neither the command nor in a stack trace. */
export function outliveReaders(): void {
  for (const stream of [process.stdout, process.stderr])
    stream.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code !== 'EPIPE') throw error;
    });
}
