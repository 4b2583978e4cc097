// Runs every part of an export in onnxruntime-web and compares it with attune's own run.

const ort = await import(new URL('ort/ort.wasm.min.mjs', location.href).href);

ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmPaths = '/ort/';

const bytes = async (path) => (await fetch(path)).arrayBuffer();

/** A safetensors file: a length, a JSON header, the bytes. */
async function tensors(path) {
  const buffer = await bytes(path);
  const length = Number(new DataView(buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  const types = { F32: [Float32Array, 'float32'], I64: [BigInt64Array, 'int64'] };
  return Object.fromEntries(
    Object.entries(header)
      .filter(([name]) => name !== '__metadata__')
      .map(
        ([
          name,
          {
            dtype,
            shape,
            data_offsets: [begin, end],
          },
        ]) => {
          const [Data, type] = types[dtype];
          const data = new Data(buffer.slice(8 + length + begin, 8 + length + end));
          return [name, { type, shape, data }];
        },
      ),
  );
}

/** [part, output, largest difference relative to the largest entry] of an export's folder. */
export async function run(folder) {
  const { parts } = await (await fetch(`${folder}/manifest.json`)).json();
  const known = await tensors(`${folder}/check.safetensors`);
  const found = [];
  for (const [name, part] of Object.entries(parts)) {
    const net = await ort.InferenceSession.create(`${folder}/${part.file}`, {
      executionProviders: ['wasm'],
      ...(part.data ? { externalData: [{ path: part.data, data: `${folder}/${part.data}` }] } : {}),
    });
    const feeds = Object.fromEntries(
      part.inputs.map(({ name: key }) => {
        const { type, data, shape } = known[`${name}.in.${key}`];
        return [key, new ort.Tensor(type, data, shape)];
      }),
    );
    const outputs = await net.run(feeds);
    for (const { name: key } of part.outputs) {
      const want = known[`${name}.out.${key}`].data;
      const got = outputs[key].data;
      let [far, top] = [0, 0];
      for (let i = 0; i < want.length; i++) {
        far = Math.max(far, Math.abs(got[i] - want[i]));
        top = Math.max(top, Math.abs(want[i]));
      }
      found.push([name, key, far / top]);
    }
    await net.release();
  }
  return { version: ort.env.versions.web, agent: navigator.userAgent, found };
}
