/** The interference of a stack's adapters as text and as a page. */

import { basename } from 'node:path';

import type { Interference, Interplay, Overlap } from '@attune/core';
import type { Report } from '@attune/eval';

import { type HeatMap, heatMaps } from './heat.ts';
import { htmlPage } from './page.ts';

/** Conditions under which a stack was measured, with their names. */
const conditions = ({
  align,
  before,
  after,
}: Interference): readonly (readonly [string, Interplay])[] =>
  after && align !== undefined
    ? [
        [`without ${align}`, before],
        [`with ${align}`, after],
      ]
    : [['as stacked', before]];

const pairName = ([a, b]: Overlap['pair']): string => `${a} × ${b}`;

/** The change of the output that each adapter makes: alone, and beside the others. */
export function changes(found: Interference): Report {
  const columns = conditions(found).map(([label, interplay], i) => ({
    key: `left-out-${i}`,
    label: `left out, ${label}`,
    interplay,
  }));
  return {
    title: 'How much each adapter changes the output',
    metrics: [
      { key: 'alone', label: 'alone', unit: '%', digits: 1 },
      ...columns.map(({ key, label }) => ({ key, label, unit: '%', digits: 1 })),
    ],
    rows: found.adapters.map((name) => ({
      name,
      values: {
        alone: 100 * found.alone[name],
        ...Object.fromEntries(
          columns.map(({ key, interplay }) => [key, 100 * interplay.leftOut[name]]),
        ),
      },
    })),
    notes: [
      'Relative change of the prediction on a fixed small input: alone, the adapter on the bare backbone; left out, the stack less this adapter. Much less left out than alone: the others take its place or undo it. 0 alone: it acts inside another adapter.',
    ],
  };
}

/** Blocks × pairs, as numbers: overlap and cosine under each condition. */
export function overlapTable(found: Interference): string[] {
  const rows = conditions(found).flatMap(([label, { overlaps }]) =>
    overlaps.map(({ block, pair, overlap, cosine }) => [
      label,
      pairName(pair),
      block,
      overlap.toFixed(3),
      cosine.toFixed(3),
    ]),
  );
  const table = [['', 'pair', 'block', 'overlap', 'cosine'], ...rows];
  const widths = table[0].map((_, i) => Math.max(...table.map((row) => row[i].length)));
  return table.map((row) =>
    row
      .map((text, i) => (i < 3 ? text.padEnd(widths[i]) : text.padStart(widths[i])))
      .join('  ')
      .trimEnd(),
  );
}

const about = [
  'Two adapters can get into each other’s way where both change the same values. For every block of the UNet this page compares what each adapter changes of the values that the block hands on: the whole stack less the stack without the adapter, on a fixed small input.',
  'Overlap (the colour) says how far two changes lie in the same directions of channel space: cos² of the principal angles, weighted by energy; 0 is apart, 1 is the same. Cosine (the small number) says which way: + they add up, − one undoes the other. A dash: one of the two changes nothing there.',
];

/** A page that needs nothing else. */
export function interferencePage(stack: string, found: Interference): string {
  const maps = conditions(found).map(([label, { overlaps }]): HeatMap => {
    const cells = new Map(overlaps.map((one) => [`${one.block}\n${pairName(one.pair)}`, one]));
    return {
      title: label,
      rows: found.blocks,
      columns: [...new Set(allOverlaps(found).map(({ pair }) => pairName(pair)))],
      cell: (block, pair) => {
        const one = cells.get(`${block}\n${pair}`);
        if (!one) return undefined;
        const cosine = signed(one.cosine);
        return {
          share: one.overlap,
          beside: cosine,
          hint: `${pair} in ${block}, ${label}: overlap ${one.overlap.toFixed(3)}, cosine ${cosine}`,
        };
      },
    };
  });
  return htmlPage({
    title: `Interference in ${/\.ya?ml$/.test(stack) ? basename(stack) : stack}`,
    about: found.adapters.length > 1 ? about : ['One adapter has nobody to interfere with.'],
    pictures: [],
    sections: found.adapters.length > 1 ? [heatMaps(maps, 'overlap')] : [],
    reports: [changes(found)],
  });
}

/** With its sign, as far as its digits show one. */
function signed(value: number): string {
  const text = Math.abs(value).toFixed(2);
  return text === '0.00' ? text : `${value < 0 ? '−' : '+'}${text}`;
}

const allOverlaps = (found: Interference): Overlap[] =>
  conditions(found).flatMap(([, { overlaps }]) => overlaps);
