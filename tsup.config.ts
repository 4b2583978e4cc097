import { existsSync, readdirSync } from 'node:fs';

import { defineConfig } from 'tsup';

/** Every package in one pass: packages/NAME/src/index.ts becomes packages/NAME/dist/index.{js,d.ts}; src/testing likewise. */
const entry: Record<string, string> = {};
for (const name of readdirSync('packages')) {
  entry[`${name}/dist/index`] = `packages/${name}/src/index.ts`;
  const testing = `packages/${name}/src/testing/index.ts`;
  if (existsSync(testing)) entry[`${name}/dist/testing`] = testing;
}

export default defineConfig({
  entry,
  outDir: 'packages',
  format: 'esm',
  target: 'node20',
  splitting: false,
  sourcemap: true,
  external: [/^@attune\//],
  skipNodeModulesBundle: true,
  dts: {
    compilerOptions: {
      ignoreDeprecations: '6.0', // tsup 8 sets baseUrl, which TypeScript 6 deprecates
      paths: {
        '@attune/*/testing': ['./packages/*/src/testing/index.ts'],
        '@attune/*': ['./packages/*/src/index.ts'],
      },
    },
  },
});
