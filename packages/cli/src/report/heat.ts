/** A heat map as an HTML table: rows × columns of shares, darker for more. */

import { escaped } from './page.ts';

export interface HeatMap {
  readonly title: string;
  readonly rows: readonly string[];
  readonly columns: readonly string[];
  /** A share 0 … 1, a small number beside it, and what to say when pointed at; undefined where there is none. */
  readonly cell: (
    row: string,
    column: string,
  ) => { readonly share: number; readonly beside: string; readonly hint: string } | undefined;
}

export function heatMap({ title, rows, columns, cell }: HeatMap): string {
  const body = rows.map((row) => {
    const cells = columns.map((column) => {
      const found = cell(row, column);
      if (!found) return '<td class="none" title="one of the two changes nothing here">–</td>';
      const { share, beside, hint } = found;
      return `<td style="background:${shade(share)};color:${share > 0.55 ? '#fff' : '#222'}" title="${escaped(hint)}">${share.toFixed(2)} <small>${escaped(beside)}</small></td>`;
    });
    return `<tr><th>${escaped(row)}</th>${cells.join('')}</tr>`;
  });
  return `<table class="heat"><caption>${escaped(title)}</caption>
<thead><tr><th></th>${columns.map((column) => `<th>${escaped(column)}</th>`).join('')}</tr></thead>
<tbody>
${body.join('\n')}
</tbody></table>`;
}

/** Maps beside each other, as far as the window is wide, with the scale of their colours. */
export const heatMaps = (maps: readonly HeatMap[], scale: string): string =>
  `<div class="heats">
${maps.map(heatMap).join('\n')}
</div>
<div class="scale"><span>0</span><i style="background:linear-gradient(to right,${[0, 0.25, 0.5, 0.75, 1].map(shade).join(',')})"></i><span>1</span><span>${escaped(scale)}</span></div>`;

/** From near white to a deep red, even steps to the eye. */
function shade(share: number): string {
  const s = Math.min(1, Math.max(0, share));
  return `hsl(${Math.round(32 - 24 * s)} ${Math.round(90 - 10 * s)}% ${Math.round(96 - 58 * s)}%)`;
}
