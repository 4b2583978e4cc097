/** A plugin's code as files: what it imports, and which of its own files that reaches. */

import { existsSync, readFileSync, statSync } from 'node:fs';
import { builtinModules } from 'node:module';
import { dirname, join, normalize, relative } from 'node:path';

import { init, parse } from 'es-module-lexer';

export interface CodeSurvey {
  /** Files reached from the entry, relative to the package, with `/`. */
  readonly files: readonly string[];
  /** Packages imported, each with the file that does so first. */
  readonly packages: ReadonlyMap<string, string>;
  /** Relative imports that lead nowhere, as `file → import`, and files that do not parse. */
  readonly broken: readonly string[];
}

/** Follows the imports of a package from one of its files; nothing is run. */
export async function surveyCode(folder: string, entry: string): Promise<CodeSurvey> {
  await init();
  const files = new Set<string>();
  const packages = new Map<string, string>();
  const broken: string[] = [];
  const waiting = [normalize(entry)];
  for (let file = waiting.pop(); file !== undefined; file = waiting.pop()) {
    const name = file.replaceAll('\\', '/');
    if (files.has(name)) continue;
    files.add(name);
    if (!/\.[cm]?js$/.test(name)) continue;
    for (const specifier of importsOf(join(folder, file), name, broken)) {
      if (!specifier.startsWith('.')) {
        const owner = packageOf(specifier);
        if (owner !== undefined && !packages.has(owner)) packages.set(owner, name);
        continue;
      }
      const target = join(folder, dirname(file), specifier);
      if (existsSync(target) && statSync(target).isFile()) waiting.push(relative(folder, target));
      else broken.push(`${name} → ${specifier}`);
    }
  }
  return { files: [...files], packages, broken };
}

/** What a file imports, statically or by a plain string. */
function importsOf(path: string, name: string, broken: string[]): string[] {
  try {
    const [imports] = parse(readFileSync(path, 'utf8'));
    return imports.flatMap(({ specifier }) => specifier ?? []);
  } catch (error) {
    broken.push(`${name}: ${error instanceof Error ? error.message : String(error)}`);
    return [];
  }
}

/** `@scope/name` of `@scope/name/deep`; undefined for what Node brings and for URLs. */
function packageOf(specifier: string): string | undefined {
  if (/^[a-z]+:|^#|^\//.test(specifier) || builtinModules.includes(specifier)) return undefined;
  const parts = specifier.split('/');
  return parts.slice(0, specifier.startsWith('@') ? 2 : 1).join('/');
}
