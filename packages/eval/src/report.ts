/** Results of several systems as a table, and the mean of their ranks. */

/** A measured quantity: a column of a report. */
export interface Metric {
  readonly key: string;
  readonly label: string;
  /** `dB`, `%`, `px`, …; absent: a plain number. */
  readonly unit?: string;
  /** Which way is better; absent: reported, not ranked. */
  readonly better?: 'higher' | 'lower';
  /** Decimals. Default 2. */
  readonly digits?: number;
}

/** One system. */
export interface ReportRow {
  readonly name: string;
  /** By the metric's key. Absent or NaN: not measured. */
  readonly values: Readonly<Record<string, number>>;
  /** Ends of intervals by the metric's key. */
  readonly intervals?: Readonly<Record<string, { readonly low: number; readonly high: number }>>;
}

/** Systems by metrics. */
export interface Report {
  readonly title: string;
  readonly metrics: readonly Metric[];
  readonly rows: readonly ReportRow[];
  readonly notes?: readonly string[];
}

/**
 * The mean rank of each row over the metrics with a direction: 1 is best, ties share the mean of
 * their ranks, what was not measured ranks last.
 */
export function meanRanks({ metrics, rows }: Pick<Report, 'metrics' | 'rows'>): number[] {
  const ranked = metrics.filter(({ better }) => better);
  const totals = rows.map(() => 0);
  for (const { key, better } of ranked) {
    const scores = rows.map(({ values }) => {
      const value = values[key] ?? Number.NaN;
      if (Number.isNaN(value)) return Number.NEGATIVE_INFINITY;
      return better === 'higher' ? value : -value;
    });
    scores.forEach((score, i) => {
      const above = scores.filter((other) => other > score).length;
      const same = scores.filter((other) => other === score).length;
      totals[i] += above + (same + 1) / 2;
    });
  }
  return totals.map((total) => total / ranked.length);
}

/** The report as a Markdown table, numbers right-aligned. */
export function formatReport({ title, metrics, rows, notes = [] }: Report): string {
  const header = [
    '',
    ...metrics.map(({ label, unit, better }) => {
      const arrow = better === 'higher' ? ' ↑' : better === 'lower' ? ' ↓' : '';
      return `${label}${unit ? ` (${unit})` : ''}${arrow}`;
    }),
  ];
  const body = rows.map((row) => [row.name, ...metrics.map((metric) => cell(row, metric))]);
  const widths = header.map((_, i) =>
    Math.max(3, ...[header, ...body].map((row) => row[i].length)),
  );
  const line = (cells: readonly string[]): string =>
    `| ${cells.map((text, i) => (i === 0 ? text.padEnd(widths[i]) : text.padStart(widths[i]))).join(' | ')} |`;
  const rule = widths.map((width, i) =>
    i === 0 ? '-'.repeat(width) : `${'-'.repeat(width - 1)}:`,
  );
  return [
    title,
    '',
    line(header),
    line(rule),
    ...body.map(line),
    ...notes.map((n) => `\n${n}`),
  ].join('\n');
}

function cell({ values, intervals }: ReportRow, { key, digits = 2 }: Metric): string {
  const value = values[key];
  if (value === undefined || Number.isNaN(value)) return '–';
  const ends = intervals?.[key];
  const text = value.toFixed(digits);
  return ends ? `${text} [${ends.low.toFixed(digits)}, ${ends.high.toFixed(digits)}]` : text;
}
