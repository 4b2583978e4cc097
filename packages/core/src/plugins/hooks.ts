/** What a plugin's code throws, with the names of the plugin and of the hook. */

import { AttuneError } from '@attune/engine';

import type { FoundPlugin } from './manifest.ts';

/**
 * A contribution whose functions say who they belong to when they fail. Errors raised on purpose
 * (`AttuneError`) pass as they are: their text is for the user of the stack.
 */
export function attributed<T extends object>(value: T, owner: FoundPlugin, id: string): T {
  const hooks: Record<PropertyKey, PropertyDescriptor> = {};
  for (let at: object = value; at !== Object.prototype;) {
    for (const key of Reflect.ownKeys(at)) {
      const hook: unknown = Reflect.get(value, key);
      if (typeof hook !== 'function' || key === 'constructor' || key in hooks) continue;
      hooks[key] = {
        value: named(hook as Hook, value, { owner, id, name: String(key) }),
        enumerable: Object.prototype.propertyIsEnumerable.call(at, key),
        configurable: true,
        writable: true,
      };
    }
    const above = Object.getPrototypeOf(at) as object | null;
    if (!above) break;
    at = above;
  }
  return Object.create(Object.getPrototypeOf(value) as object | null, {
    ...Object.getOwnPropertyDescriptors(value),
    ...hooks,
  }) as T;
}

type Hook = (...given: unknown[]) => unknown;

interface Place {
  readonly owner: FoundPlugin;
  readonly id: string;
  readonly name: string;
}

function named(hook: Hook, self: object, place: Place): Hook {
  const fail = (error: unknown): never => {
    throw AttuneError.is(error) ? error : failure(error, place);
  };
  return (...given) => {
    try {
      const result = hook.apply(self, given);
      return result instanceof Promise ? result.catch(fail) : result;
    } catch (error) {
      return fail(error);
    }
  };
}

function failure(error: unknown, { owner, id, name }: Place): AttuneError {
  const reason = error instanceof Error ? error.message : String(error);
  const made = new AttuneError(
    'PLUGIN_HOOK',
    `The plugin ${owner.package}@${owner.version} failed in ${name}() of ${id}: ${reason}`,
    { plugin: owner.package, id, hook: name },
  );
  return Object.assign(made, { cause: error });
}
