/** Where a layer stands: its address, its parameters, and the sites at which taps act on it. */

import {
  accumulate,
  add,
  AttuneError,
  mul,
  param,
  sameShape,
  type Shape,
  type Tensor,
  tracePosition,
} from '@attune/engine';

import type { Matcher, SiteKind } from './address.ts';
import type { Init } from './init.ts';
import { meet, type Rows } from './rows.ts';

/** The call being traced: rows, and the inputs every site may read. */
export interface Call extends Rows {
  /** The net's inputs by name: `sample`, `timestep`, `encoder_hidden_states`, … */
  readonly inputs: Readonly<Record<string, Tensor>>;
  /** The first id of a word that an adapter added to the tokenizer. */
  idOf(word: string): number;
  /**
   * A value computed at most once per call, such as a private net. It is traced at first use, under
   * all taps; asking for it while it is being traced is an error that names the cycle.
   */
  once<T>(key: string, build: () => T): T;
}

/** How the pixels of token values lie: [rows, h·w, C], or [B·h·w, F, C], the frames of each pixel. */
export interface Grid {
  readonly h: number;
  readonly w: number;
  readonly layout: 'tokens' | 'tubes';
}

/** What a tap is told about the place it acts on. */
export interface Site {
  readonly kind: SiteKind;
  readonly address: string;
  /** Where the pixels of a value of tokens are; without it only images [rows, C, h, w] are known to have some. */
  readonly grid?: Grid;
  /** How many sites of this kind came before it in this net. */
  readonly index: number;
  readonly call: Call;
  /** The adapter's own scope for this place, `<adapter>.<address>`. */
  readonly scope: Scope;
  /** The adapter's root scope, `<adapter>`: where its private nets live. */
  readonly root: Scope;
  /** The layer behind a `layer` site. */
  readonly layer?: LayerSite;
  /** The operands behind an `attention` site. */
  readonly attention?: AttentionSite;
}

/** The layer behind a site. `apply` is for deltas that are another weight: apply(W′, b′) − output. */
export interface LayerSite {
  readonly type: 'linear' | 'conv' | 'norm' | 'embedding';
  readonly x: Tensor;
  readonly weight: Tensor;
  readonly bias?: Tensor;
  /** The layer without any tap. */
  readonly output: Tensor;
  /** The same layer with other parameters. */
  readonly apply: (weight: Tensor, bias?: Tensor) => Tensor;
}

/** The operands of an attention whose value, before the output projection, is the site's. */
export interface AttentionSite {
  /** [rows, L, C], [rows', S, C] and [rows', S, C]; rows' may be fewer. */
  readonly q: Tensor;
  readonly k: Tensor;
  readonly v: Tensor;
  readonly heads: number;
}

/** An adapter's act: the delta that core gates and adds to the value at every matching site. */
export interface BoundTap {
  readonly adapter: string;
  readonly at: Matcher;
  delta(value: Tensor, site: Site): Tensor;
  /** The strength at a site, of one value or broadcast over the site's; undefined means 1. */
  gate(value: Tensor, site: Site): Tensor | undefined;
}

/** A delta that became part of a site's value: gate · delta. */
export interface Added {
  readonly adapter: string;
  /** `kind:address` */
  readonly site: string;
  readonly delta: Tensor;
  readonly gate: Tensor | undefined;
}

/** A parameter that a trace asked for. */
export interface ParamInfo {
  readonly name: string;
  readonly shape: Shape;
  readonly init: Init;
}

/** One trace of one net: what was asked for, visited and read. */
export class Trace {
  readonly taps: readonly BoundTap[];
  /** Whether a parameter is fed at every run. */
  readonly live: (name: string) => boolean;
  readonly params = new Map<string, ParamInfo & { readonly tensor: Tensor }>();
  /** Every visited site: `kind:address` → the value after its taps. */
  readonly sites = new Map<string, Tensor>();
  readonly marks: number[] = [];
  /** Sites each tap has acted on, as `kind:address`. */
  readonly acted = new Map<BoundTap, string[]>();
  /** What was added where, in order. */
  readonly added: Added[] = [];
  readonly #counts = new Map<SiteKind, number>();

  constructor({
    taps = [],
    live = () => false,
  }: { taps?: readonly BoundTap[]; live?: (name: string) => boolean } = {}) {
    this.taps = taps;
    this.live = live;
  }

  /** The parameter of a full name, made when it is first asked for. Throws PARAM_CLASH for another shape. */
  param(name: string, shape: Shape, init: Init): Tensor {
    const known = this.params.get(name);
    if (known) {
      if (sameShape(known.shape, shape)) return known.tensor;
      throw new AttuneError(
        'PARAM_CLASH',
        `The parameter ${name} was asked for as [${known.shape}] and as [${shape}].`,
        { name },
      );
    }
    const tensor = param(name, shape, { live: this.live(name) });
    this.params.set(name, { name, shape, init, tensor });
    return tensor;
  }

  /**
   * Lets every tap that matches act on a value, in order, and returns what comes of it. Nets call
   * `Scope.site` and `Scope.layer` instead.
   */
  visit(
    kind: SiteKind,
    address: string,
    value: Tensor,
    call: Call,
    operands: Pick<Site, 'layer' | 'attention' | 'grid'> = {},
  ): Tensor {
    const index = this.#counts.get(kind) ?? 0;
    this.#counts.set(kind, index + 1);
    let now = value;
    for (const tap of this.taps) {
      if (!tap.at.matches(kind, address)) continue;
      if (address.startsWith(`${tap.adapter}.`))
        throw new AttuneError(
          'CYCLE',
          `The adapter ${tap.adapter} taps its own address ${address} (${tap.at.text}).`,
          { adapter: tap.adapter, address },
        );
      const root = new Scope(this, tap.adapter, call);
      const site: Site = { kind, address, index, call, scope: root.at(address), root, ...operands };
      now = this.#apply(now, tap.delta(now, site), tap, site);
      const places = this.acted.get(tap);
      if (places) places.push(`${kind}:${address}`);
      else this.acted.set(tap, [`${kind}:${address}`]);
    }
    this.sites.set(`${kind}:${address}`, now);
    return now;
  }

  #apply(value: Tensor, delta: Tensor, tap: BoundTap, site: Site): Tensor {
    const { kind, address, call } = site;
    const [a, b] = sameShape(value.shape, delta.shape) ? [value, delta] : meet(value, delta, call);
    if (!sameShape(a.shape, b.shape))
      throw new AttuneError(
        'DELTA_SHAPE',
        `The adapter ${tap.adapter} returned a delta [${delta.shape}] for the value [${value.shape}] at ${kind}:${address}; a delta has its value's shape.`,
        { adapter: tap.adapter, address, value: value.shape, delta: delta.shape },
      );
    const gate = tap.gate(a, site);
    this.added.push({ adapter: tap.adapter, site: `${kind}:${address}`, delta: b, gate });
    if (!gate || gate.size === 1) return accumulate(a, b, gate);
    return add(...meet(a, broadcast(b, gate, call), call));
  }

  /** A position at which a program may be cut. */
  mark(): void {
    this.marks.push(tracePosition());
  }
}

/** b · gate, where both may have rows for clips or for frames. */
function broadcast(b: Tensor, gate: Tensor, call: Call): Tensor {
  const apart = b.dim(0) !== gate.dim(0) && b.dim(0) > 1 && gate.dim(0) > 1;
  return apart ? mul(...meet(b, gate, call)) : mul(b, gate);
}

/** A place in a net. Layers are functions of a scope. */
export class Scope {
  readonly trace: Trace;
  readonly path: string;
  readonly call: Call;
  /** Where the pixels of token values are, from here on. */
  readonly grid: Grid | undefined;

  constructor(trace: Trace, path: string, call: Call, grid?: Grid) {
    this.trace = trace;
    this.path = path;
    this.call = call;
    this.grid = grid;
  }

  /** The scope one or more parts further down. */
  at(...parts: readonly (string | number)[]): Scope {
    return new Scope(
      this.trace,
      [this.path, ...parts].filter((p) => p !== '').join('.'),
      this.call,
      this.grid,
    );
  }

  /** The same place, with the pixels of its token values told; without a grid they have none. */
  on(grid?: Grid): Scope {
    return new Scope(this.trace, this.path, this.call, grid);
  }

  /** A named parameter of this place. */
  param(name: string, shape: Shape, init: Init): Tensor {
    return this.trace.param(this.path ? `${this.path}.${name}` : name, shape, init);
  }

  /** The site of a layer: returns its output after all taps. */
  layer(layer: Omit<LayerSite, 'output'>): Tensor {
    const output = layer.apply(layer.weight, layer.bias);
    return this.trace.visit('layer', this.path, output, this.call, {
      layer: { ...layer, output },
      ...this.#place(),
    });
  }

  /** A site of another kind at this place. */
  site(kind: SiteKind, value: Tensor, attention?: AttentionSite): Tensor {
    return this.trace.visit(kind, this.path, value, this.call, {
      ...(attention ? { attention } : {}),
      ...this.#place(),
    });
  }

  #place(): Pick<Site, 'grid'> {
    return this.grid ? { grid: this.grid } : {};
  }

  /** A place at which a program may be cut: between blocks, where few values are alive. */
  mark(): void {
    this.trace.mark();
  }
}

/** A call over the given inputs. */
export function makeCall(
  rows: Rows,
  inputs: Readonly<Record<string, Tensor>>,
  idOf: (word: string) => number | undefined = () => undefined,
): Call {
  const made = new Map<string, unknown>();
  const making: string[] = [];
  return {
    ...rows,
    inputs,
    idOf: (word) => {
      const id = idOf(word);
      if (id !== undefined) return id;
      throw new AttuneError('NO_WORD', `The model's tokenizer has no word "${word}".`, { word });
    },
    once: <T>(key: string, build: () => T): T => {
      if (made.has(key)) return made.get(key) as T;
      if (making.includes(key))
        throw new AttuneError(
          'CYCLE',
          `${[...making.slice(making.indexOf(key)), key].join(' → ')}: a private net needs itself.`,
          { key },
        );
      making.push(key);
      const value = build();
      making.pop();
      made.set(key, value);
      return value;
    },
  };
}
