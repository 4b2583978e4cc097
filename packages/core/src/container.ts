/** The dependency-injection container: the edge at which implementations are chosen. */

import { OrtRuntime, type Runtime, type RuntimeOptions } from '@attune/engine';
import { Container, ContainerModule, type ServiceIdentifier } from 'inversify';

import { type LoaderOptions, PluginLoader } from './plugins/loader.ts';
import { type FoundPlugin } from './plugins/manifest.ts';

/** Where models run. */
export const RuntimeToken: ServiceIdentifier<Runtime> = Symbol.for('@attune/core/Runtime');
/** One binding per plugin; bound unnamed, so that `getAll` sees every one. */
export const PluginToken: ServiceIdentifier<FoundPlugin> = Symbol.for('@attune/core/Plugin');
/** The plugins by id. */
export const LoaderToken: ServiceIdentifier<PluginLoader> = Symbol.for('@attune/core/PluginLoader');

/** The module of one plugin: our own adapters and anybody's come in through this door. */
export const pluginModule = (plugin: FoundPlugin): ContainerModule =>
  new ContainerModule(({ bind }) => {
    bind(PluginToken).toConstantValue(plugin);
  });

/** The bindings of core itself. */
export const coreModule = (
  runtime: RuntimeOptions = {},
  loading: LoaderOptions = {},
): ContainerModule =>
  new ContainerModule(({ bind }) => {
    bind(RuntimeToken)
      .toDynamicValue(() => new OrtRuntime(runtime))
      .inSingletonScope();
    bind(LoaderToken)
      .toResolvedValue(
        (plugins: FoundPlugin[]) => new PluginLoader(plugins, loading),
        [{ serviceIdentifier: PluginToken, isMultiple: true }],
      )
      .inSingletonScope();
  });

/** A container of core and the given plugins. */
export function createContainer(
  plugins: readonly FoundPlugin[],
  runtime: RuntimeOptions = {},
  loading: LoaderOptions = {},
): Container {
  const container = new Container();
  container.load(coreModule(runtime, loading), ...plugins.map(pluginModule));
  return container;
}
