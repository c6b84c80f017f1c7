// The page: what is chosen, what is asked of the model, and where its answers go. Text from files is set as text, never as HTML.
import { readJson } from './files.js';
import { Refused, megabytes, open, pixelsOf } from './image.js';
import { Model, check, probabilities } from './model.js';
import { planes, square } from './resize.js';
import { drawSheet, fileName, save } from './sheet.js';
import { View, make, share, signed, toRgba } from './view.js';

const TOP = 5, CLOSE = 1e-3; // predictions shown; how near to the export's numbers WebGPU must be before it is used
const find = selector => document.querySelector(selector);
const tell = words => { find('#status').textContent = words; };
let loads = 0; // only the newest tells how far it is
const seconds = s => `${s.toPrecision(2)} s`;

let manifest = null, model = null, view = null;
let image = null; // { name, rgb, pixels } that is shown
let whole = null; // what the model says of the whole image, of the target that was chosen
let part = null; // the same of what a rectangle leaves
let turn = 0; // questions are counted: only the newest is answered
let asking = null, again = false; // a rectangle that is being asked about, and whether it has moved since

async function start() {
  manifest = await readJson('manifest.json');
  view = new View(manifest.preprocessing.side, rectangle);
  document.querySelector('main').hidden = false;
  listen();
  describe();
  await use(manifest.graphs.find(({ name }) => name === manifest.first) ?? manifest.graphs[0]);
}

// Loads the model where it runs best here: a graphics processor that gives the export's numbers, else WebAssembly.
async function use(graph) {
  const before = model, begun = performance.now(), own = ++loads;
  model = null;
  before?.close();
  const load = provider => Model.load(manifest, graph, provider,
    (so, all) => { if (own === loads) tell(`Loading the model: ${megabytes(so)} of ${megabytes(Math.max(so, all))}`); });
  let why = '';
  if (manifest.runtime.webgpu) {
    try {
      if (!(await navigator.gpu?.requestAdapter())) throw new Error('there is no WebGPU here');
      const found = await load('webgpu'), error = await check(found);
      if (!(error < CLOSE)) { found.close(); throw new Error(`WebGPU differs from the export by ${error.toExponential(0)} here`); }
      model = found;
    } catch (error) { why = ` (${error.message})`; }
  }
  model ??= await load('wasm');
  const { threads, provider } = model;
  const one = globalThis.crossOriginIsolated ? '1 thread' : '1 thread, more need the headers COOP and COEP of the server';
  const where = provider === 'webgpu' ? 'WebGPU' : `WebAssembly with SIMD, ${threads > 1 ? `${threads} threads` : one}${why}`;
  tell(`Ready: ${graph.name} weights, ${where}. Loaded in ${seconds((performance.now() - begun) / 1000)}.`);
  Object.assign(find('#status').dataset, { ready: graph.name, provider, threads });
  if (image) await explain();
}

// Opens a file, a pasted picture or a frame of the camera.
async function show(source, name) {
  const own = ++turn;
  say('');
  try {
    const pixels = source instanceof Blob ? await open(source, name) : pixelsOf(source, name);
    const rgb = square(pixels.rows, pixels.width, pixels.height, manifest.preprocessing);
    if (own !== turn) return;
    image = { name, rgb, pixels: planes(rgb, view.side) };
    whole = part = null;
    say(pixels.note, true);
    view.showImage(rgb);
    find('#shown').hidden = false;
    find('#name').textContent = `${name}, ${pixels.width} × ${pixels.height}, cut to ${view.side} × ${view.side}`;
    clearAnswers();
    await explain();
  } catch (error) { fail(error); }
}

// Explains the whole image: of a class or text, or of the one of the largest logit.
async function explain(target = -1) {
  if (!model || !image) return;
  const own = ++turn, answering = model;
  find('#shown').dataset.busy = '1';
  find('#seconds').textContent = '…';
  try {
    const found = await answering.explain(image.pixels, { target });
    if (own !== turn) return;
    whole = found;
    drawAnswers();
    if (view.box) { part = null; rectangle(true); } else drawExplanation(whole);
    delete find('#shown').dataset.busy;
  } catch (error) { fail(error); }
}

// Asks about what the rectangle leaves; while an answer is awaited, only the newest rectangle waits.
async function rectangle() {
  find('#clear').hidden = !view.box;
  if (!view.box) {
    part = null;
    find('#change').replaceChildren();
    view.showImageOnly(toRgba(image.rgb));
    if (whole) drawExplanation(whole);
    return;
  }
  const only = find('#part').value === 'keep', keep = view.keep(only);
  view.showImageOnly(toRgba(image.rgb, keep));
  again = Boolean(asking);
  if (asking || !model || !whole) return;
  const before = whole, own = turn;
  asking = model.explain(image.pixels, { keep, target: before.target, direction: ownDirection(before) });
  try {
    const found = await asking;
    asking = null;
    if (own === turn && view.box) { part = found; drawChange(before, found); drawExplanation(found); }
  } catch (error) { asking = null; fail(error); }
  if (again && view.box) rectangle();
}

// A model without classes is asked how near the features of a part are to those of the whole image.
const length = values => Math.hypot(...values);
const ownDirection = ({ pooled }) => (pooled ? pooled.map(value => value / length(pooled)) : null);
const chance = found => (found.pooled ? found.value / length(found.pooled) : probabilities(found.logits, manifest.probability)[found.target]);
const nameOf = found => (manifest.kind === 'features' ? 'its own features' : manifest.names[found.target]);

function drawExplanation(found) {
  view.showExplanation(found);
  find('#target').textContent = `“${nameOf(found)}”${found === part ? (find('#part').value ? ' in what is kept' : ' in what is left') : ''}`;
  find('#seconds').textContent = seconds(found.seconds);
  const total = found.sum + found.residual, far = Math.abs(found.value - total);
  find('#sum').textContent = `${manifest.kind === 'features' ? 'Value' : 'Logit'} ${signed(found.value)} = all pixels ${signed(found.sum)}, `
    + `constants ${signed(found.residual)} (off by ${far.toExponential(0)})`;
  const { sum, residual, value } = found;
  Object.assign(find('#sum').dataset, { sum, residual, value, target: found.target, seconds: found.seconds });
}

function drawChange(before, after) {
  const [from, to] = [chance(before), chance(after)], words = manifest.kind === 'features' ? 'similarity to the whole image' : 'probability';
  const bars = [from, to].map(x => {
    const bar = make('i');
    bar.style.width = `${100 * Math.min(1, Math.max(0, x))}%`;
    return make('span', { className: 'bar' }, bar);
  });
  find('#change').replaceChildren(
    make('p', { className: 'numbers', text: `${nameOf(before)}, ${words}: ${share(from)} → ${share(to)}`, data: { from, to, value: after.value } }), ...bars);
}

function clearAnswers() {
  find('#top').replaceChildren();
  find('#change').replaceChildren();
  find('#clear').hidden = true;
  for (const id of ['#sum', '#target', '#seconds']) find(id).textContent = '';
}

function drawAnswers() {
  if (!whole.logits) return;
  const chances = probabilities(whole.logits, manifest.probability), held = document.activeElement?.dataset?.index;
  const order = chances.map((_, i) => i).sort((a, b) => whole.logits[b] - whole.logits[a]).slice(0, TOP);
  if (!order.includes(whole.target)) order.push(whole.target);
  const none = manifest.kind === 'classes' && manifest.probability === 'sigmoid' && chances[order[0]] < 0.5
    ? [make('p', { text: 'None of its classes: all are below 50 %.' })] : [];
  find('#top').replaceChildren(...none, ...order.map(index => {
    const bar = make('i');
    bar.style.width = `${100 * chances[index]}%`;
    const button = make('button', { type: 'button', className: 'answer', title: `logit ${whole.logits[index].toFixed(3)}: explain it`, data: { index } },
      bar, make('span', { text: manifest.names[index] }), make('span', { text: share(chances[index]) }));
    button.setAttribute('aria-pressed', String(index === whole.target));
    button.addEventListener('click', () => explain(index));
    return button;
  }));
  if (held !== undefined) find(`.answer[data-index="${held}"]`)?.focus();
}

// What the page says of itself.
function describe() {
  const { kind, graphs, names, runtime } = manifest;
  const loaded = graphs.map(graph => `${megabytes(graph.bytes + runtime.wasm.bytes)} with ${graph.name} weights`).join(', ');
  const facts = [
    ['Answers', kind === 'classes' ? `${names.length} classes, ${manifest.probability}` : kind === 'texts' ? `${names.length} texts, sigmoid of each` : 'features, no classes'],
    ['Reads', `${view.side} × ${view.side} pixels, ${manifest.preprocessing.resample}, the central square`],
    ['Loads', loaded],
    ['From PyTorch', `at most ${Math.max(...Object.values(manifest.differences)).toExponential(0)} of the largest value (float32, measured at export)`],
    ...(manifest.int8 ? [['int8 weights', (manifest.int8.faithful ? '' : 'left out: ') + manifest.int8.words]] : []),
    ['Made with', `ALOE ${manifest.aloe}, onnxruntime-web ${runtime.version}`],
    ...(manifest.licence ? [['Licence of the model', manifest.licence]] : []),
  ];
  find('#facts dl').replaceChildren(...facts.flatMap(([name, text]) => [make('dt', { text: name }), make('dd', { text })]));
  find('#answers').hidden = kind === 'features';
  find('#answers h2').textContent = kind === 'texts' ? 'Texts: choose one to explain' : 'Predictions: choose one to explain';
  find('#other').hidden = names.length <= TOP;
  find('#names').replaceChildren(...names.map(value => make('option', { value })));
  const select = find('#precision select');
  find('#precision').hidden = graphs.length < 2;
  select.replaceChildren(...graphs.map(({ name }) => make('option', { value: name, text: name, selected: name === manifest.first })));
}

function say(words, note = false) {
  find('#problem').textContent = words;
  find('#problem').classList.toggle('note', note);
}

function fail(error) {
  delete find('#shown').dataset.busy;
  say(error instanceof Refused ? error.message : `Something went wrong (${error.message}); reload the page.`);
}

async function download() {
  if (!whole) return;
  const found = part ?? whole, { side } = view, { colour, signed: map } = view.pictures;
  const over = colour.map((value, i) => (i % 4 === 3 ? 255 : Math.round((value * colour[i - (i % 4) + 3]) / 255 + 255 - colour[i - (i % 4) + 3])));
  const keep = view.box ? view.keep(find('#part').value === 'keep') : null;
  const lines = [`${image.name}: ${find('#target').textContent}, ${share(chance(found))}`, find('#sum').textContent, `${document.title}, ALOE ${manifest.aloe}`];
  save(await drawSheet(side, [toRgba(image.rgb, keep), over, map], lines), fileName(image.name, 'aloe.png'));
}

async function film() {
  const dialog = find('#viewfinder'), video = dialog.querySelector('video');
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: 'environment' } });
  } catch {
    say('There is no camera here, or this page may not use it: choose a file.');
    return;
  }
  video.srcObject = stream;
  find('#take').onclick = async () => {
    if (!video.videoWidth) return;
    const frame = await createImageBitmap(video);
    dialog.close();
    show(frame, 'camera');
  };
  find('#leave').onclick = () => dialog.close();
  dialog.onclose = () => { for (const track of stream.getTracks()) track.stop(); video.srcObject = null; };
  dialog.showModal();
}

function listen() {
  const pick = find('#pick'), first = files => { if (files?.[0]) show(files[0], files[0].name || 'pasted image'); };
  find('#file').addEventListener('change', ({ target }) => { first(target.files); target.value = ''; });
  document.addEventListener('paste', event => {
    if (event.clipboardData.files.length) { event.preventDefault(); first(event.clipboardData.files); }
  });
  document.addEventListener('dragover', event => { event.preventDefault(); pick.classList.add('over'); });
  document.addEventListener('dragleave', () => pick.classList.remove('over'));
  document.addEventListener('drop', event => { event.preventDefault(); pick.classList.remove('over'); first(event.dataTransfer.files); });
  find('#camera').addEventListener('click', film);
  find('#part').addEventListener('change', () => { if (view.box) rectangle(); });
  find('#clear').addEventListener('click', () => view.clear());
  find('#save').addEventListener('click', download);
  find('#other input').addEventListener('change', ({ target }) => {
    const index = manifest.names.indexOf(target.value);
    if (index >= 0) { target.value = ''; explain(index); }
  });
  find('#precision select').addEventListener('change', ({ target }) => use(manifest.graphs.find(({ name }) => name === target.value)).catch(lost));
  find('#check').addEventListener('click', async () => {
    if (!model) return;
    find('#checked').textContent = '…';
    const error = await check(model);
    const exact = model.graph.name === 'float32' ? 'PyTorch' : `onnxruntime with the same ${model.graph.name} weights`;
    find('#checked').textContent = `On a test picture at most ${error.toExponential(1)} of the largest value from ${exact}.`;
    find('#checked').dataset.error = error;
  });
}

const lost = error => { loads += 1; tell(`The model could not be loaded: ${error.message}`); };
start().catch(lost);
