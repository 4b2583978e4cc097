export { detectDialect, kohyaName, type LoraFile, readLora } from './formats.ts';
export { lora, type LoraOptions, type Module } from './lora.ts';
