/** What a plugin says about itself in package.json, readable without running its code. */

import { AttuneError } from '@attune/engine';
import { z } from 'zod';

/** The version of the plugin contract this core speaks. */
export const apiVersion = 1;

/** The kinds of things a plugin can contribute. */
export const contributionKinds = [
  'adapters',
  'data',
  'objectives',
  'samplers',
  'backbones',
  'nets',
  'suites',
  'stacks',
] as const;
/** A key of `contributes`, in package.json and in the code. */
export type ContributionKind = (typeof contributionKinds)[number];

const Id = z.string().regex(/^[a-z][a-z0-9-]*$/, 'use lower-case letters, digits and -');

const Version = z.int().positive();
const Api = z.union([
  Version,
  z.tuple([Version, Version]).refine(([first, last]) => first <= last, 'the first, then the last'),
]);

/** Whether code for contract version `api` (or for a range of them) works with this core. */
export function speaks(api: z.infer<typeof Api>): boolean {
  const [first, last] = typeof api === 'number' ? [api, api] : api;
  return first <= apiVersion && apiVersion <= last;
}

/** The `attune` key of a plugin's package.json. */
export const PluginManifest = z.strictObject({
  /** First part of its ids: `scope/name`. */
  scope: Id,
  /** The contract version it was written for, or the first and the last that it works with. */
  api: Api,
  contributes: z.partialRecord(z.enum(contributionKinds), z.array(Id)),
  /** What it does beyond arithmetic: declared, shown, pinned; no sandbox is claimed. */
  capabilities: z.array(z.enum(['network', 'read-files', 'write-files'])).default([]),
});
/** A checked `attune` entry, `capabilities` filled in. */
export type PluginManifest = z.infer<typeof PluginManifest>;

/** A manifest with the package it came from. */
export interface FoundPlugin {
  readonly package: string;
  readonly version: string;
  readonly license: string | undefined;
  /** Folder of the package. */
  readonly folder: string;
  readonly manifest: PluginManifest;
}

const PackageJson = z.looseObject({
  name: z.string(),
  version: z.string().default('0.0.0'),
  license: z.string().optional(),
  attune: z.unknown().optional(),
});

/** Reads a parsed package.json: the plugin it declares, or undefined where it declares none. */
export function readManifest(json: unknown, folder: string): FoundPlugin | undefined {
  const parsed = PackageJson.safeParse(json);
  if (!parsed.success || parsed.data.attune === undefined) return undefined;
  const { name, version, license, attune } = parsed.data;
  const manifest = PluginManifest.safeParse(attune);
  if (!manifest.success)
    throw new AttuneError(
      'PLUGIN_MANIFEST',
      `The plugin ${name} has a bad "attune" entry in package.json: ${z.prettifyError(manifest.error)}`,
      { plugin: name },
    );
  if (!speaks(manifest.data.api))
    throw new AttuneError(
      'PLUGIN_API',
      `The plugin ${name}@${version} was written for plugin api ${[manifest.data.api].flat().join(' to ')}; this attune speaks ${apiVersion}. Install a version of ${name} for api ${apiVersion}.`,
      { plugin: name, api: manifest.data.api },
    );
  return { package: name, version, license, folder, manifest: manifest.data };
}
