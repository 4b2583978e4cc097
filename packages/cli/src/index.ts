export { main } from './main.ts';
export { outliveReaders } from './terminal.ts';
