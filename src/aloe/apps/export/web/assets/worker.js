// The model, beside the page so that the page stays awake: onnxruntime-web, one session, one question at a time.
let ort = null, session = null;

const jobs = {
  async load({ module, wasm, graph, provider, threads }) {
    ort = await import(module);
    Object.assign(ort.env.wasm, { wasmBinary: wasm, numThreads: threads });
    ort.env.logLevel = 'error';
    // Weights in int8 are spread out once, when the graph is loaded; all arithmetic is in float32.
    const extra = { session: { disable_quant_qdq: '1' } };
    const options = { executionProviders: [provider], logSeverityLevel: 3, extra };
    session = await ort.InferenceSession.create(new Uint8Array(graph), options);
  },
  async run({ inputs }) {
    const feeds = {};
    for (const [name, { type, data, dims }] of Object.entries(inputs)) feeds[name] = new ort.Tensor(type, data, dims);
    const start = performance.now(), outputs = await session.run(feeds), found = {};
    for (const [name, tensor] of Object.entries(outputs)) found[name] = await tensor.getData();
    return { outputs: found, seconds: (performance.now() - start) / 1000 };
  },
};

let last = Promise.resolve();
self.addEventListener('message', ({ data: { id, job, ...values } }) => {
  last = last.then(() => jobs[job](values)).then(
    found => self.postMessage({ id, found }),
    error => self.postMessage({ id, error: String(error?.message ?? error) }),
  );
});
