/** Checkpoints of torch.save in its zip format: tensors are read in place, nothing in them is executed. */

import { type AttuneError, badFile } from '../errors.ts';
import { type DType, fromBytes, itemSize, type NDArray } from '../runtime/array.ts';
import { readBytes, withFile } from './file.ts';
import { brief, maxRank } from './header.ts';
import { type Dict, Global, Tuple, unpickle, type Value } from './pickle.ts';
import { type ZipEntry, zipEntries } from './zip.ts';

/** One tensor: a view of a storage. */
export interface TorchTensor {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly number[];
  /** First byte, counted from the start of the file, and bytes, where the tensor lies there in one piece. */
  readonly place: { readonly offset: number; readonly length: number } | undefined;
  load(): NDArray;
}

export interface TorchFile {
  readonly path: string;
  readonly tensors: ReadonlyMap<string, TorchTensor>;
}

const STORAGES: Readonly<Record<string, DType>> = {
  'torch.DoubleStorage': 'f64',
  'torch.FloatStorage': 'f32',
  'torch.HalfStorage': 'f16',
  'torch.BFloat16Storage': 'bf16',
  'torch.LongStorage': 'i64',
  'torch.IntStorage': 'i32',
  'torch.ByteStorage': 'u8',
  'torch.BoolStorage': 'bool',
  // Of tensors whose type the pickle says beside it; none of these is read.
  'torch.storage.UntypedStorage': 'u8',
};

/** Largest pickle read, in bytes. */
const MOST = 64 * 2 ** 20;

/** A file's tensors, tied ones counted each, may take so many times its bytes. */
const REPEATS = 16;

/** How files of torch.save begin that are older than 1.6: a pickled number that marks them. */
const OLD = [0x80, 2, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46];

/**
 * Whether a file is a zip archive, as those of torch.save are. Throws BAD_FILE for the form that it wrote
 * before 1.6, and for any other bare pickle: neither is opened.
 */
export const isTorch = (file: string): boolean =>
  withFile(file, (handle, _, size) => {
    const start = [...readBytes(handle, 0, Math.min(size, 8), file)];
    // The length of a safetensors header begins the file otherwise: it has zeros at its end.
    if (start[0] === OLD[0] && start[1] <= 5 && start[7])
      throw badFile(
        file,
        `it is ${start.join() === OLD.join() ? 'a checkpoint of torch.save before 1.6' : 'a bare Python pickle'}, which is not opened: save it again with torch.save, or convert it to safetensors, with a tool you trust`,
      );
    return start.slice(0, 4).join() === [0x50, 0x4b, 3, 4].join();
  });

/**
 * Opens a `.ckpt`, `.pth`, `.pt` or `.bin` file. Nested dicts give dotted names; where the file has a
 * `state_dict`, the rest (optimisers, counters) is left out. Throws BAD_FILE for any global or opcode that
 * is not needed for tensors in plain containers, naming it, and for every lie of the archive.
 */
export function openTorch(file: string): TorchFile {
  const fail = (what: string): AttuneError => badFile(file, what);
  return withFile(file, (handle, path, size) => {
    const read = (offset: number, length: number) => readBytes(handle, offset, length, file);
    const entries = zipEntries(size, read, fail);
    const [main, ...others] = [...entries.values()].filter(({ name }) =>
      /^[^/]+\/data\.pkl$/.test(name),
    );
    if (!main || others.length > 0)
      throw fail('it is a zip archive, but none that torch.save writes (it needs one data.pkl)');
    const folder = main.name.slice(0, -'data.pkl'.length);
    const order = entries.get(`${folder}byteorder`);
    if (
      order &&
      Buffer.from(read(order.offset, Math.min(order.length, 16))).toString() !== 'little'
    )
      throw fail('its numbers are big-endian, which is not supported');
    if (main.length > MOST) throw fail(`its pickle claims ${main.length} bytes`);
    if (entries.has(`${folder}constants.pkl`))
      throw fail(
        'it is a TorchScript archive, a program: save its weights alone (torch.save(module.state_dict(), …))',
      );
    const host = new TensorHost(entries, folder, fail);
    const root = unpickle(read(main.offset, main.length), host);
    const load = (view: View): NDArray =>
      withFile(path, (again) => gathered(view, (o, n) => readBytes(again, o, n, file)));
    const tensors = new Map<string, TorchTensor>();
    let bytes = 0;
    for (const [name, view] of named(root, fail)) {
      const { dtype, shape, offset, length } = view;
      bytes += length;
      if (bytes > REPEATS * size) throw fail('its tensors repeat the same bytes again and again');
      const place = isDense(view) ? { offset, length } : undefined;
      tensors.set(name, { name, dtype, shape, place, load: () => load(view) });
    }
    return { path, tensors };
  });
}

interface Storage {
  readonly dtype: DType;
  /** First byte in the file. */
  readonly offset: number;
  /** Elements. */
  readonly count: number;
}

class StorageBox {
  readonly storage: Storage;
  constructor(storage: Storage) {
    this.storage = storage;
  }
}

/** A tensor in a storage: where its first element lies and how far apart the next ones along each axis. */
class View {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly strides: readonly number[];
  /** First byte in the file, and bytes of the values. */
  readonly offset: number;
  readonly length: number;

  constructor({ dtype, offset }: Storage, from: number, shape: number[], strides: number[]) {
    this.dtype = dtype;
    this.shape = shape;
    this.strides = strides;
    this.offset = offset + from * itemSize[dtype];
    this.length = shape.reduce((size, n) => size * n, itemSize[dtype]);
  }
}

/** A module of torch that holds parameters by name, as the first programs' embeddings have it. */
class ParameterDict extends Map<Value, Value> {}

class TensorHost {
  readonly #entries: ReadonlyMap<string, ZipEntry>;
  readonly #folder: string;
  readonly fail: (what: string) => AttuneError;

  constructor(
    entries: ReadonlyMap<string, ZipEntry>,
    folder: string,
    fail: (what: string) => AttuneError,
  ) {
    this.#entries = entries;
    this.#folder = folder;
    this.fail = fail;
  }

  call(name: string, args: readonly Value[], spend: (count: number) => void): Value {
    switch (name) {
      case 'collections.OrderedDict':
        return this.#dict(args, spend);
      case 'torch._utils._rebuild_tensor':
      case 'torch._utils._rebuild_tensor_v2':
        return this.#tensor(args);
      case 'torch._utils._rebuild_parameter':
        return args[0] ?? null;
      case 'torch._utils._rebuild_tensor_v3':
        throw this.fail(
          `it holds a tensor of ${args[6] instanceof Global ? brief(args[6].path) : 'no known type'}, which is not read from files of torch.save: convert it to safetensors, whose 8-bit floats are, or save it as float16`,
        );
      // Of names: modules keep sets of them.
      case 'builtins.set':
      case '__builtin__.set':
        return args[0] ?? [];
      case 'torch.Size':
        return args[0] ?? null;
      default:
        throw this.fail(
          `its pickle calls ${brief(name)}, which is not allowed: save the state dict alone (torch.save(model.state_dict(), …)) or convert it to safetensors`,
        );
    }
  }

  instance(name: string): Value {
    if (name === 'torch.nn.modules.container.ParameterDict') return new ParameterDict();
    throw this.fail(
      `its pickle uses the opcode NEWOBJ for an object of ${brief(name)}, which is not allowed: save the state dict alone (torch.save(model.state_dict(), …)) or convert it to safetensors`,
    );
  }

  state(object: Value, state: Value, spend: (count: number) => void): void {
    const own =
      object instanceof ParameterDict && state instanceof Map
        ? state.get('_parameters')
        : undefined;
    if (!(object instanceof ParameterDict) || !(own instanceof Map)) return;
    spend(own.size);
    for (const [name, value] of own) object.set(name, value);
  }

  persistent(id: Value): Value {
    const [kind, type, key, , count] = id instanceof Tuple ? id.items : [];
    if (kind !== 'storage' || !(type instanceof Global) || typeof key !== 'string')
      throw this.fail('its pickle refers to something that is no storage');
    const dtype = Object.hasOwn(STORAGES, type.path) ? STORAGES[type.path] : undefined;
    if (!dtype) throw this.fail(`it holds a ${brief(type.path)}, which is not supported`);
    const entry = this.#entries.get(`${this.#folder}data/${key}`);
    if (!entry) throw this.fail(`its storage ${brief(key)} is missing`);
    if (!isCount(count) || count * itemSize[dtype] !== entry.length)
      throw this.fail(
        `its storage ${brief(key)} has ${entry.length} bytes, but claims ${isCount(count) ? count : 'no number of'} elements of ${dtype}`,
      );
    return new StorageBox({ dtype, offset: entry.offset, count });
  }

  #dict([pairs = []]: readonly Value[], spend: (count: number) => void): Dict {
    if (!Array.isArray(pairs))
      throw this.fail('its pickle makes a dict of something that is no list');
    spend(pairs.length);
    return new Map(
      pairs.map((pair) => {
        const [key, value] = pair instanceof Tuple ? pair.items : Array.isArray(pair) ? pair : [];
        if (key === undefined || value === undefined)
          throw this.fail('its pickle makes a dict of something that is no pair');
        return [key, value];
      }),
    );
  }

  #tensor([box, from, size, steps]: readonly Value[]): View {
    const [shape, strides] = [countsOf(size), countsOf(steps)];
    if (!(box instanceof StorageBox) || !isCount(from) || !shape || !strides)
      throw this.fail('its pickle describes a tensor that cannot be');
    const { storage } = box;
    const last = shape.reduce((at, n, i) => at + (n - 1) * (strides[i] ?? NaN), from);
    const empty = shape.includes(0);
    if (shape.length !== strides.length || (!empty && !(last < storage.count)))
      throw this.fail(
        `a tensor of shape [${shape.slice(0, 8)}] and strides [${strides.slice(0, 8)}] reaches beyond its ${storage.count} elements`,
      );
    // A broadcast view (stride 0) may claim any size; no checkpoint needs more than its storage holds.
    if (shape.reduce((all, n) => all * n, 1) > storage.count)
      throw this.fail(
        `a tensor of shape [${shape.slice(0, 8)}] repeats its ${storage.count} elements`,
      );
    return new View(storage, from, shape, strides);
  }
}

const isCount = (value: Value | undefined): value is number =>
  Number.isSafeInteger(value) && (value as number) >= 0;

function countsOf(value: Value | undefined): number[] | undefined {
  const items = value instanceof Tuple ? value.items : value;
  return Array.isArray(items) && items.length <= maxRank && items.every(isCount)
    ? [...items]
    : undefined;
}

/** Depth and number of values that are looked at: a pickle may hold one container in many places. */
const [DEEPEST, MANY] = [16, 1_000_000];
/** Longest name of a tensor: names grow with every container around it. */
const LONGEST = 4096;

/** Every tensor with its dotted name. */
function named(root: Value, fail: (what: string) => AttuneError): [string, View][] {
  const found: [string, View][] = [];
  let seen = 0;
  const visit = (value: Value, name: string, depth: number): void => {
    if (depth > DEEPEST || ++seen > MANY) throw fail('its containers are nested without end');
    if (name.length > LONGEST) throw fail(`a name in it is longer than ${LONGEST} letters`);
    if (value instanceof View) found.push([name, value]);
    const items =
      value instanceof Map
        ? value.entries()
        : Array.isArray(value)
          ? value.entries()
          : value instanceof Tuple
            ? value.items.entries()
            : [];
    for (const [key, item] of items)
      if (typeof key === 'string' || typeof key === 'number')
        visit(item, name === '' ? `${key}` : `${name}.${key}`, depth + 1);
      else seen++;
  };
  const own = root instanceof Map ? root.get('state_dict') : undefined;
  visit(own instanceof Map ? own : root, '', 0);
  const names = new Set(found.map(([name]) => name));
  if (names.size !== found.length) throw fail('two of its tensors have one name');
  if (found.length === 0) throw fail('it holds no tensors');
  return found;
}

const isDense = ({ shape, strides }: View): boolean => {
  let step = 1;
  for (let i = shape.length - 1; i >= 0; i--) {
    if (shape[i] !== 1 && strides[i] !== step) return false;
    step *= shape[i];
  }
  return true;
};

/** The values in row-major order, whatever the strides. */
function gathered(view: View, read: (offset: number, length: number) => Uint8Array): NDArray {
  const { dtype, shape, strides, offset, length } = view;
  if (length === 0 || isDense(view)) return fromBytes(read(offset, length), dtype, shape);
  const item = itemSize[dtype];
  const span = shape.reduce((at, n, i) => at + (n - 1) * strides[i], 1);
  const all = read(offset, span * item);
  const out = new Uint8Array(length);
  const index = shape.map(() => 0);
  for (let to = 0; to < length; to += item) {
    const from = index.reduce((at, n, i) => at + n * strides[i], 0) * item;
    out.set(all.subarray(from, from + item), to);
    for (let axis = shape.length - 1; axis >= 0 && ++index[axis] === shape[axis]; axis--)
      index[axis] = 0;
  }
  return fromBytes(out, dtype, shape);
}
