// The model as the page asks it: loaded once into a worker, then explanations of the image or of a part of it.
import { readBytes } from './files.js';

export class Model {
  // provider: 'wasm' or 'webgpu'; graph: an entry of the manifest's `graphs`; progress(bytes so far, bytes in all).
  static async load(manifest, graph, provider, progress = () => {}) {
    const runtime = manifest.runtime[provider], total = graph.bytes + runtime.bytes;
    let so = 0;
    const count = bytes => progress((so += bytes), total);
    const [weights, wasm] = await Promise.all([readBytes(graph, count), readBytes(runtime.wasm, count)]);
    const model = new Model(manifest, graph, provider);
    const module = new URL(runtime.module, import.meta.url).href;
    await model.#ask('load', { module, wasm, graph: weights, provider, threads: model.threads }, [weights]);
    return model;
  }

  #worker = new Worker(new URL('worker.js', import.meta.url), { type: 'module' });
  #waiting = new Map();
  #count = 0;

  constructor(manifest, graph, provider) {
    Object.assign(this, { manifest, graph, provider, side: manifest.preprocessing.side });
    // Threads share memory, which browsers allow on pages with the headers COOP and COEP only.
    this.threads = globalThis.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1;
    this.#worker.addEventListener('message', ({ data: { id, found, error } }) => {
      const { resolve, reject } = this.#waiting.get(id);
      this.#waiting.delete(id);
      if (error === undefined) resolve(found); else reject(new Error(error));
    });
    this.#worker.addEventListener('error', event => {
      for (const { reject } of this.#waiting.values()) reject(new Error(event.message || 'the worker did not start'));
      this.#waiting.clear();
    });
  }

  close() { this.#worker.terminate(); }

  // image: three planes in [0, 1]; keep: one plane of zeros and ones, or null for the whole image; target: a class or text, -1
  // for the one of the largest logit; direction: for a model without either, null for that of its own features.
  async explain(image, { keep = null, target = -1, direction = null } = {}) {
    const { side, manifest } = this, plane = [1, 1, side, side];
    const inputs = {
      image: { type: 'float32', data: image, dims: [1, 3, side, side] },
      keep: { type: 'float32', data: keep ?? new Float32Array(side * side).fill(1), dims: plane },
    };
    if (manifest.kind === 'features') {
      const data = direction ?? new Float32Array(manifest.width);
      inputs.direction = { type: 'float32', data, dims: [1, manifest.width] };
    } else {
      inputs.target = { type: 'int64', data: BigInt64Array.of(BigInt(target)), dims: [1] };
    }
    const { outputs, seconds } = await this.#ask('run', { inputs });
    const chosen = target < 0 && outputs.logits ? largest(outputs.logits) : target;
    const { contributions, weights, logits, pooler_output: pooled } = outputs;
    const sum = contributions.reduce((a, b) => a + b, 0);
    return { value: outputs.logit[0], residual: outputs.residual[0], sum, contributions, weights, logits, pooled, target: chosen, seconds };
  }

  #ask(job, values, moved = []) {
    const id = this.#count++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#worker.postMessage({ id, job, ...values }, moved);
    });
  }
}

export const largest = values => values.reduce((best, value, i) => (value > values[best] ? i : best), 0);

// Logits to probabilities as the head was trained: all of them together, or each by itself.
export function probabilities(logits, kind) {
  if (kind === 'sigmoid') return Array.from(logits, x => 1 / (1 + Math.exp(-x)));
  const top = Math.max(...logits), powers = Array.from(logits, x => Math.exp(x - top));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map(x => x / sum);
}

// The picture whose answer the export has written down, by whole numbers alone.
export function checkImage(side) {
  const found = new Float32Array(3 * side * side);
  for (let c = 0, i = 0; c < 3; c++) {
    for (let y = 0; y < side; y++) {
      for (let x = 0; x < side; x++, i++) found[i] = (((7 + 4 * c) * x + (13 - 3 * c) * y + 5 * (x >> 2) * (y >> 2)) % 256) / 255;
    }
  }
  return found;
}

// How far this device is from that answer, relative to the largest value of each output.
export async function check(model) {
  const { side, graph: { check: expected } } = model;
  const found = await model.explain(checkImage(side), { target: 0 });
  const cells = new Array(expected.contributions.length).fill(0), across = Math.round(Math.sqrt(cells.length)), cell = side / across;
  found.contributions.forEach((value, i) => {
    cells[Math.floor(Math.floor(i / side) / cell) * across + Math.floor((i % side) / cell)] += value;
  });
  const far = (a, b) => Math.max(...b.map((value, i) => Math.abs(a[i] - value))) / Math.max(...b.map(Math.abs));
  const worst = Math.max(far([found.value], [expected.value]), far(cells, expected.contributions));
  return Number.isFinite(worst) ? worst : Infinity;
}
