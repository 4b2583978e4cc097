/** The command line: commands, exit codes, one clear message per failure. */

import { AttuneError } from '@attune/engine';
import { Command, CommanderError } from 'commander';

import { withLock, withRuntime, withStrength } from './commands/arguments.ts';
import { composeCommand } from './commands/compose.ts';
import { convertCommand } from './commands/convert.ts';
import { demoCommand } from './commands/demo.ts';
import { distillCommand } from './commands/distill.ts';
import { doctorCommand } from './commands/doctor.ts';
import { editCommand } from './commands/edit.ts';
import { evalCommand } from './commands/eval.ts';
import { exportCommand } from './commands/export.ts';
import { generateCommand } from './commands/generate.ts';
import { inspectCommand } from './commands/inspect.ts';
import { pluginCommand } from './commands/plugin.ts';
import { probeCommand } from './commands/probe.ts';
import { pullCommand } from './commands/pull.ts';
import { reportCommand } from './commands/report.ts';
import { tokenizeCommand } from './commands/tokenize.ts';
import { trainCommand } from './commands/train.ts';
import { goOffline, ownVersion } from './session.ts';
import { printable, say } from './terminal.ts';

/** Runs the command line. Exit codes: 0 done, 1 failed, 2 wrong usage or input. */
export async function main(argv: readonly string[]): Promise<number> {
  const program = new Command('attune')
    .description(
      'Stack adapters on a frozen diffusion model, align the stack without supervised data.',
    )
    .version(ownVersion(), '-V, --version', 'the version of attune')
    .exitOverride()
    .showHelpAfterError('(add --help for usage and an example)');
  for (const make of commands) {
    const command = make();
    if (opensStacks.has(make)) withLock(command);
    if (runsModels.has(make)) withRuntime(command);
    if (runsStacks.has(make)) withStrength(command);
    program.addCommand(command);
  }
  for (const command of program.commands.flatMap((one) => [one, ...one.commands])) {
    command.exitOverride();
    const own = command.options.some(({ long }) => long === '--offline');
    if (!own && command.commands.length === 0)
      command.option('--offline', 'refuse plugins that declare the use of the network');
  }
  program.hook('preAction', (_, command) => goOffline(command.opts().offline === true));
  try {
    await program.parseAsync(argv, { from: 'user' });
    return 0;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2;
    if (AttuneError.is(error)) {
      say(`attune: ${printable(error.message)}`);
      return ownFailures.has(error.code) ? 1 : 2;
    }
    const reason = error instanceof Error ? error.message : String(error);
    if (error instanceof RangeError && tooMuch.test(reason)) {
      say(
        `attune: this takes more memory than there is (${reason}); use smaller batches, sizes, ranks or fewer frames.`,
      );
      return 1;
    }
    say(`attune: unexpected: ${reason}`);
    if (process.env.ATTUNE_DEBUG && error instanceof Error) say(`${error.stack}`);
    return 1;
  }
}

/** Commands that open a stack: the file that it comes from may have a lock to be heeded. */
const opensStacks: ReadonlySet<() => Command> = new Set([
  composeCommand,
  convertCommand,
  demoCommand,
  distillCommand,
  editCommand,
  evalCommand,
  exportCommand,
  generateCommand,
  inspectCommand,
  probeCommand,
  reportCommand,
  tokenizeCommand,
  trainCommand,
]);

/** Commands that run a stack as it is named: a recipe says the strengths of its own. */
const runsStacks: ReadonlySet<() => Command> = new Set([
  composeCommand,
  demoCommand,
  editCommand,
  evalCommand,
  exportCommand,
  generateCommand,
  probeCommand,
  reportCommand,
]);

const runsModels: ReadonlySet<() => Command> = new Set([
  ...runsStacks,
  distillCommand,
  trainCommand,
]);

const commands: readonly (() => Command)[] = [
  ...opensStacks,
  pullCommand,
  pluginCommand,
  doctorCommand,
];

/** What an array that nothing can hold ends in. */
const tooMuch = /allocation failed|Invalid (typed )?array length/;

/** Failures that are not the input's fault. */
const ownFailures = new Set([
  'RUNTIME',
  'INTERNAL',
  'BAD_GRADIENT',
  'RELEASED',
  'INTERRUPTED',
  'WRITE_FAILED',
  'PLUGIN_HOOK',
  'PLUGIN_INVALID',
  'PLUGIN_LAWS',
  'NO_SPACE',
  'NETWORK',
  'BAD_DOWNLOAD',
  'BAD_LISTING',
]);
