export { EditConfig } from './config.ts';
export { edit, type EditOptions } from './edit.ts';
