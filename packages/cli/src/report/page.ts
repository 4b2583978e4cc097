/** A report as one HTML file that needs nothing else: pictures inside, no scripts. */

import type { Report } from '@attune/eval';

export interface Picture {
  readonly label: string;
  /** Encoded, as `type` says. */
  readonly bytes: Uint8Array;
  readonly type: 'image/webp' | 'image/png';
}

export interface Page {
  readonly title: string;
  /** Paragraphs under the title. */
  readonly about: readonly string[];
  /** Beside each other, as far as the window is wide. */
  readonly pictures: readonly Picture[];
  readonly reports: readonly Report[];
  /** HTML of this folder's own making, before the tables. */
  readonly sections?: readonly string[];
}

/** The page as text. Everything that comes from outside is escaped. */
export function htmlPage({ title, about, pictures, reports, sections = [] }: Page): string {
  const figures = pictures.map(
    ({ label, bytes, type }) =>
      `<figure><img alt="${escaped(label)}" src="data:${type};base64,${Buffer.from(bytes).toString('base64')}"><figcaption>${escaped(label)}</figcaption></figure>`,
  );
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>${escaped(title)}</title>
<style>${style}</style>
<h1>${escaped(title)}</h1>
${about.map((text) => `<p>${escaped(text)}</p>`).join('\n')}
${figures.length ? `<div class="pictures">\n${figures.join('\n')}\n</div>` : ''}
${sections.join('\n')}
${reports.map(table).join('\n')}
</html>
`;
}

function table({ title, metrics, rows, notes = [] }: Report): string {
  const heads = metrics.map(({ label, unit, better }) => {
    const arrow = better === 'higher' ? ' ↑' : better === 'lower' ? ' ↓' : '';
    return `<th>${escaped(`${label}${unit ? ` (${unit})` : ''}${arrow}`)}</th>`;
  });
  const body = rows.map(({ name, values }) => {
    const cells = metrics.map(({ key, digits = 2 }) => {
      const value = values[key];
      const text = value === undefined || Number.isNaN(value) ? '–' : value.toFixed(digits);
      return `<td>${text}</td>`;
    });
    return `<tr><th>${escaped(name)}</th>${cells.join('')}</tr>`;
  });
  return `<h2>${escaped(title)}</h2>
<table><thead><tr><th></th>${heads.join('')}</tr></thead>
<tbody>
${body.join('\n')}
</tbody></table>
${notes.map((note) => `<p class="note">${escaped(note)}</p>`).join('\n')}`;
}

const style = `
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; background: #fff; }
h1 { font-size: 1.6rem; margin-bottom: 0.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1.5rem 0; }
figure { margin: 0; flex: 1 1 15rem; } figcaption { color: #555; }
img { width: 100%; image-rendering: pixelated; border-radius: 4px; display: block; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 0.3rem 0.7rem; border-bottom: 1px solid #ddd; font-weight: normal; }
thead th { color: #555; vertical-align: bottom; } th:first-child { text-align: left; }
.note { color: #555; }
.heats { display: flex; flex-wrap: wrap; gap: 1.5rem 3rem; margin: 1.5rem 0 0.5rem; }
.heat { border-collapse: separate; border-spacing: 2px; } .heat caption { text-align: left; font-weight: 600; padding-bottom: 0.3rem; }
.heat th { border: 0; } .heat tbody th { font-family: ui-monospace, monospace; font-size: 0.85rem; }
.heat td { border: 0; border-radius: 4px; text-align: center; min-width: 6.5rem; white-space: nowrap; } .heat th:first-child { padding-left: 0; } .heat .none { color: #999; background: #f5f5f5; }
.scale { display: flex; align-items: center; gap: 0.5rem; color: #555; font-size: 0.85rem; } .scale i { width: 10rem; height: 0.7rem; border-radius: 4px; }
`;

export const escaped = (text: string): string =>
  text.replaceAll(/[&<>"']/g, (character) => `&#${character.codePointAt(0)};`);
