/** The eight places: each paints a whole picture from a stream of its own. */

import { type Rng } from '@attune/engine';

import { type BackgroundName } from './catalogue.ts';
import { mix, noise, ramp, rgb, shade, smoothstep } from './colour.ts';
import {
  AREA,
  paintBox,
  paintDisc,
  paintGround,
  paintLine,
  paintSky,
  type Picture,
  SIDE,
} from './paint.ts';
import { between, cactus, clouds, hills, palm, pine, WHITE } from './scenery.ts';

const { sin, PI } = Math;

function beach(to: Picture, rng: Rng): void {
  const horizon = between(rng, 23, 27);
  paintSky(to, 0, horizon, ramp('#5cbcf2', '#a5dcf8', '#e4f6fd'));
  clouds(to, rng, 2, horizon - 12);
  const sea = ramp('#1583bd', '#27a9cf', '#63d6d3');
  paintGround(
    to,
    () => horizon,
    (depth) => shade(sea, depth / 18),
  );
  const shore = hills(rng, horizon + 15, 2, between(rng, 50, 80));
  paintGround(
    to,
    (x) => shore(x) - 1.8,
    () => WHITE,
  );
  const sand = ramp('#e2c07e', '#f4dca0', '#efcf8b');
  const grain = rng.int(1 << 20);
  paintGround(to, shore, (depth, x, y) =>
    shade(sand, depth / 24 + 0.25 * (noise(x * 0.9, y * 0.9, grain) - 0.5)),
  );
  const side = rng.pick([-1, 1]);
  const foot = 32 + side * between(rng, 22, 27);
  palm(to, foot, horizon + 26, side);
}

function meadow(to: Picture, rng: Rng): void {
  paintSky(to, 0, 40, ramp('#3f9ff0', '#8ccbf8', '#d6effc'));
  clouds(to, rng, 3, 17);
  const far = ramp('#a4d86a', '#7cc453');
  paintGround(to, hills(rng, between(rng, 32, 35), 2.8, 70), (depth) => shade(far, depth / 14));
  const near = ramp('#6dbf45', '#48a338', '#2f8730');
  const grain = rng.int(1 << 20);
  const line = hills(rng, between(rng, 41, 44), 2, 90);
  paintGround(to, line, (depth, x, y) =>
    shade(near, depth / 24 + 0.3 * (noise(x * 0.8, y * 0.35, grain) - 0.5)),
  );
  const petals = ['#ffffff', '#ffd84a', '#ff7fb0', '#f4554d'].map(rgb);
  for (let i = 0; i < 16; i++) {
    const x = between(rng, 1, 63);
    const y = between(rng, line(x) + 2, 63);
    paintLine(to, x, y, x, y + 2.4, 0.7, rgb('#2c7a2b'));
    paintDisc(to, x, y, 1.25, 1.25, rng.pick(petals));
  }
}

function night(to: Picture, rng: Rng): void {
  paintSky(to, 0, 54, ramp('#060920', '#131650', '#2c2c7c', '#4b3f97'));
  for (let i = 0; i < 44; i++) {
    const r = rng.uniform() < 0.2 ? 0.95 : 0.6;
    const opacity = between(rng, 0.55, 1);
    paintDisc(to, between(rng, 0, 64), between(rng, 0, 46), r, r, rgb('#fff8dc'), { opacity });
  }
  const x = rng.pick([between(rng, 8, 13), between(rng, 51, 56)]);
  const y = between(rng, 9, 12);
  paintDisc(to, x, y, 9.5, 9.5, rgb('#8d8be0'), { opacity: 0.35, soft: 5 });
  paintDisc(to, x, y, 5.6, 5.6, rgb('#fff3bf'));
  paintDisc(to, x + 2.6, y - 1.4, 4.7, 4.7, rgb('#14174f'));
  paintGround(to, hills(rng, 50, 2.6, 60), () => rgb('#15153f'));
  paintGround(to, hills(rng, 56, 1.8, 44), () => rgb('#0a0b26'));
}

function desert(to: Picture, rng: Rng): void {
  paintSky(to, 0, 38, ramp('#f6c46e', '#fadb9a', '#fdf2d4'));
  const x = between(rng, 8, 56);
  const y = between(rng, 8, 13);
  paintDisc(to, x, y, 10, 10, rgb('#fff6cf'), { opacity: 0.5, soft: 6 });
  paintDisc(to, x, y, 5.5, 5.5, rgb('#fffdf0'));
  const layers = [
    { y: 33, codes: ['#efc58b', '#e6b274'] },
    { y: 42, codes: ['#e6ad68', '#d69550'] },
    { y: 52, codes: ['#d79852', '#bd7a38'] },
  ];
  for (const [i, { y: mean, codes }] of layers.entries()) {
    const line = hills(rng, mean + between(rng, -1.5, 1.5), 3.2, between(rng, 46, 72));
    const sand = ramp(...codes);
    const ripple = between(rng, 0, 6);
    paintGround(to, line, (depth, px) => {
      const away = smoothstep(-0.12, 0.12, line(px + 1) - line(px)); // the sun stands to the left
      return shade(sand, depth / 16 + 0.5 * away - 0.15 + 0.14 * sin(depth * 2.1 + ripple));
    });
    if (i === 1)
      for (const cx of [between(rng, 5, 15), between(rng, 49, 59)])
        cactus(to, cx, line(cx) + 4, between(rng, 13, 17));
  }
}

function snow(to: Picture, rng: Rng): void {
  paintSky(to, 0, 40, ramp('#8fb4d6', '#b9d3e8', '#dfebf5'));
  const far = ramp('#d3e2f0', '#b5cce2');
  paintGround(to, hills(rng, 31, 3.2, 58), (depth) => shade(far, depth / 12));
  const line = hills(rng, between(rng, 40, 43), 2, 80);
  const pines: [number, number][] = [];
  for (let i = 0; i < 4; i++)
    pines.push([(i < 2 ? 4 : 50) + (i % 2) * 6 + between(rng, 0, 5), between(rng, 15, 21)]);
  for (const [x, tall] of pines) pine(to, x, line(x) + 1.5, tall);
  const near = ramp('#ffffff', '#f1f6fb', '#d5e3f1');
  const grain = rng.int(1 << 20);
  paintGround(to, line, (depth, x, y) =>
    shade(near, depth / 24 + 0.5 * (noise(x * 0.16, y * 0.3, grain) - 0.5)),
  );
  for (let i = 0; i < 34; i++) {
    const r = between(rng, 0.6, 1.15);
    paintDisc(to, between(rng, 0, 64), between(rng, 0, 64), r, r, WHITE, { opacity: 0.95 });
  }
}

function ocean(to: Picture, rng: Rng): void {
  const horizon = between(rng, 16, 19);
  paintSky(to, 0, horizon + 3, ramp('#9fd6f2', '#d8f0fa'));
  clouds(to, rng, 2, 9);
  const tones = ['#35a7de', '#2592d2', '#1a7cc2', '#1367ae', '#0c5398', '#084080'].map(rgb);
  for (const [i, tone] of tones.entries()) {
    const y = horizon + (i === 0 ? 0 : 1.5 + i * 7.6);
    const wave = 8 + i * 2.6;
    const phase = between(rng, 0, wave);
    const high = i === 0 ? 0 : 1 + i * 0.35;
    const line = (x: number): number =>
      y - high * (1 - Math.abs(sin((PI * (x + phase)) / wave)) * 2);
    if (i > 0)
      paintGround(
        to,
        (x) => line(x) - 1.1,
        () => mix(WHITE, tone, 0.12),
      );
    paintGround(to, line, (depth) => mix(tone, tones[Math.min(5, i + 1)], depth / 22));
  }
}

function sunset(to: Picture, rng: Rng): void {
  const horizon = between(rng, 39, 42);
  paintSky(to, 0, horizon, ramp('#34195c', '#7a2a78', '#c93f6d', '#f4754a', '#fdb04c', '#ffe08a'));
  const x = between(rng, 14, 50);
  paintDisc(to, x, horizon, 17, 17, rgb('#ffe28a'), { opacity: 0.45, soft: 9 });
  paintDisc(to, x, horizon, 9, 9, rgb('#fff3b5'));
  for (let i = 0; i < 4; i++) {
    const cx = between(rng, 4, 60);
    const cy = 9 + i * 6 + between(rng, -1.5, 1.5);
    paintDisc(to, cx, cy, between(rng, 9, 15), 1.3, rgb(i < 2 ? '#b0467f' : '#ff9c70'), {
      opacity: 0.8,
    });
  }
  const water = ramp('#a3405f', '#63295f', '#2b143f');
  paintGround(
    to,
    () => horizon,
    (depth) => shade(water, depth / 22),
  );
  for (let i = 0; i < 9; i++) {
    const y = horizon + 1.4 + i * 2.5;
    const wide = 8 - i * 0.45 + between(rng, -2, 2);
    paintDisc(to, x + between(rng, -2, 2), y, wide, 0.75, rgb('#ffc465'), {
      opacity: 0.85 - i * 0.06,
    });
  }
}

function city(to: Picture, rng: Rng): void {
  paintSky(to, 0, 50, ramp('#8fbfe6', '#c3dcee', '#eaf1f3'));
  for (let x = -2; x < SIDE;) {
    const wide = between(rng, 6, 10);
    paintBox(
      to,
      x,
      between(rng, 12, 26),
      x + wide,
      54,
      mix(rgb('#93a9bf'), rgb('#aebfd0'), rng.uniform()),
    );
    x += wide;
  }
  const walls = ['#b4614a', '#5a6b86', '#c59f70', '#4f8583', '#8d6a8f'].map(rgb);
  let wall = rng.int(walls.length);
  for (let x = between(rng, -5, 0); x < SIDE;) {
    const wide = rng.pick([10, 12, 14]);
    const top = Math.round(between(rng, 20, 36));
    wall = (wall + 1 + rng.int(walls.length - 1)) % walls.length;
    paintBox(to, x, top, x + wide, 54, walls[wall]);
    paintBox(to, x, top, x + wide, top + 1, mix(walls[wall], WHITE, 0.35));
    for (let y = top + 3; y < 50; y += 4)
      for (let w = x + 2; w < x + wide - 2.5; w += 4)
        paintBox(to, w, y, w + 2, y + 2.2, rgb(rng.uniform() < 0.6 ? '#ffe9a3' : '#2f3d52'));
    x += wide + rng.pick([0, 0, 2]);
  }
  paintBox(to, 0, 52, SIDE, 55, rgb('#c4c3bd'));
  paintBox(to, 0, 55, SIDE, SIDE, rgb('#4b4e57'));
  for (let x = between(rng, -8, 0); x < SIDE; x += 12) paintBox(to, x, 59, x + 6, 60.2, WHITE);
}

const PLACES: { readonly [name in BackgroundName]: (to: Picture, rng: Rng) => void } = {
  beach,
  meadow,
  night,
  desert,
  snow,
  ocean,
  sunset,
  city,
};

/** A background, [3, SIDE, SIDE]. */
export function paintBackground(name: BackgroundName, rng: Rng): Picture {
  const picture = new Float32Array(3 * AREA);
  PLACES[name](picture, rng);
  return picture;
}
