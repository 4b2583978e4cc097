export { foreign, recogniseFile } from './inspect/foreign.ts';
export { main } from './main.ts';
export { outliveReaders } from './terminal.ts';
