export { recogniseFile } from './inspect/foreign.ts';
export { foreign } from './inspect/layouts.ts';
export { main } from './main.ts';
export { outliveReaders } from './terminal.ts';
