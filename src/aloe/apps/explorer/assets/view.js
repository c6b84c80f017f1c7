// The view: draws what the server sent (`payload.py`), reads pixels under the pointer, and sends rectangles back. Whatever text
// came with it (names of files, classes and models) is set as text, never as HTML.
const overlay = find('overlay'), signed = find('signed'), panels = find('panels');
let maps = []; // of every panel with values: what it shows, its nodes, and the panel itself
let cursor = null; // [x, y], shares of the square
let box = null, start = null, last = 0, shownImage = null, shownAim = '', shownPart = null, waiting = 0;
let current = null; // the answer that is shown, as far as it has come
const results = make('div', { className: 'aloe-changes' });
results.setAttribute('aria-live', 'polite');
const keep = make('select', {}, make('option', { value: '', text: 'delete' }), make('option', { value: '1', text: 'keep only' }));
const fill = make('select', {}, ...props.fills.map(([value, text]) => make('option', { value, text })));
const region = make('p', { className: 'aloe-region' }, make('label', { text: 'Drag to ' }, keep), make('label', { text: 'filled with ' }, fill));

function floats(base64) {
  const bytes = Uint8Array.from(atob(base64), c => c.charCodeAt(0)), view = new DataView(bytes.buffer);
  return Float32Array.from({ length: bytes.length / 4 }, (_, i) => view.getFloat32(4 * i, true));
}

const number = (x, digits = 4) => (x < 0 ? '\u2212' : '+') + Math.abs(x).toPrecision(digits);
const file = (name, ending) => name.replace(/[^\w.-]+/g, '_').slice(-60) + '-aloe' + ending;

// An answer comes in parts: the first has the image and the predictions, every one a panel at most (`at` which), and as long as
// there are more, the last says so (`busy`). What comes late, of an older question, is left alone.
function draw() {
  const part = props.value;
  if (!part || part === shownPart || (current && part.turn < current.turn)) return;
  if (!part.image && part.turn !== current?.turn) return;
  const value = part.image ? part : { ...current, ...part, panels: [...current.panels.slice(0, part.at), ...part.panels] };
  shownPart = part;
  current = value;
  const image = value.image.name + '\n' + value.image.picture, other = shownImage !== image, before = other ? [] : maps;
  if (other) {
    box = cursor = start = null;
    results.replaceChildren();
    panels.replaceChildren(drawInput(value.image));
    shownImage = image;
  }
  drawPredictions(value);
  // What is there already stays where it is: a drag or a focus outlives the answers that arrive meanwhile.
  maps = [];
  value.panels.forEach((panel, i) => {
    const same = before.find(({ panel: p }) => ['model', 'method', 'target', 'values'].every(key => p[key] === panel[key]));
    if (same) maps.push(same);
    const figure = same ? same.figure : drawPanel(panel, value.image);
    if (panels.children[i + 1] !== figure) panels.insertBefore(figure, panels.children[i + 1] || null);
  });
  while (panels.children.length > value.panels.length + 1) panels.lastChild.remove();
  Object.assign(panels.dataset, { turn: value.turn, busy: value.busy });
  find('busy').textContent = value.busy ? value.busy + ' …' : '';
  find('png').hidden = !value.sheet;
  find('json').hidden = !maps.length;
  if (value.sheet) Object.assign(find('png'), { href: value.sheet, download: file(value.image.name, '.png') });
  mix();
  read();
  const aim = JSON.stringify([value.aim, value.predictions.map(p => p.model)]);
  if (box && aim !== shownAim) ask(true); // the same rectangle, asked about something else
  shownAim = aim;
  if (value.busy) trigger('more', { turn: value.turn });
}

function drawPredictions(value) {
  const held = document.activeElement?.dataset?.prediction; // the focus stays where it was
  const lists = value.predictions.filter(p => p.top.length).map(({ model, top, classes, known }) => {
    const rows = top.map(({ label, index, probability, logit }) => {
      const share = make('span', { className: 'aloe-share' });
      share.style.width = 100 * probability + '%';
      const aimed = value.aim.text !== undefined ? label === value.aim.text : label === value.aim.class;
      const data = { prediction: model + '\n' + index + '\n' + label, label };
      const title = 'logit ' + logit.toFixed(3) + ': explain it';
      const button = make('button', { type: 'button', className: 'aloe-prediction', title, data },
        share, make('span', { text: label }), make('span', { text: (100 * probability).toFixed(1) + ' %' }));
      button.setAttribute('aria-pressed', String(aimed));
      button.addEventListener('click', () => trigger('choose', { label, index }));
      return button;
    });
    const none = known === false ? [make('p', { className: 'aloe-none', text: 'none of its classes: all are below 50 %' })] : [];
    return make('div', { className: 'aloe-list' },
      make('h3', { text: model + (classes ? '' : ', sigmoid of each text') }), ...none, ...rows);
  });
  find('predictions').replaceChildren(...lists);
  if (held) [...element.querySelectorAll('.aloe-prediction')].find(b => b.dataset.prediction === held)?.focus();
}

function drawInput(image) {
  const select = make('div', { className: 'aloe-selection', hidden: true });
  const mark = make('div', { className: 'aloe-mark', hidden: true });
  const stack = make('div', { className: 'aloe-stack aloe-input', tabIndex: 0 },
    make('img', { src: image.picture, alt: image.name, draggable: false }), select, mark);
  stack.classList.toggle('aloe-pixels', image.side < SMALL);
  stack.setAttribute('role', 'application');
  stack.setAttribute('aria-label', image.name + ': drag a rectangle. Arrows move the pixel that is read, with Shift they draw a'
    + ' rectangle from it, Escape takes it away.');
  stack.addEventListener('pointerdown', event => {
    if (event.button) return;
    stack.setPointerCapture(event.pointerId);
    start = place(event, stack);
    point(...start);
  });
  stack.addEventListener('pointermove', event => {
    const [x, y] = place(event, stack);
    point(x, y);
    if (start && Math.max(Math.abs(x - start[0]), Math.abs(y - start[1])) * stack.clientWidth > 4) stretch(start, [x, y]);
  });
  stack.addEventListener('pointerup', () => { start = null; if (box) ask(true); });
  stack.addEventListener('pointercancel', () => { start = null; });
  stack.addEventListener('keydown', event => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (event.key === 'Escape') { box = start = null; results.replaceChildren(); frame(); }
    if (!step) return;
    event.preventDefault();
    const many = event.ctrlKey ? 1 : Math.max(1, Math.round(image.side / 32));
    const [x, y] = cursor || [0.5, 0.5];
    const next = [x + step[0] * many / image.side, y + step[1] * many / image.side].map(clamp);
    if (event.shiftKey) { start = start || [x, y]; stretch(start, next); } else start = null;
    point(...next);
  });
  stack.addEventListener('blur', () => { start = null; });
  const size = image.size.join(' × ');
  return make('figure', { className: 'aloe-panel' },
    make('figcaption', {}, make('b', { text: 'input' }), make('span', { text: image.name + ', ' + size })), stack, region, results);
}

function drawPanel(panel, image) {
  const head = make('figcaption', {}, make('b', { text: panel.heading }), make('span', { text: panel.model }));
  if (!panel.values) return make('figure', { className: 'aloe-panel' }, head, make('p', { className: 'aloe-note', text: panel.note }));
  const [rows, columns] = panel.shape;
  const under = make('img', { src: image.picture, alt: '', draggable: false });
  const over = make('img', { className: 'aloe-map', alt: panel.heading + ' of ' + panel.target, draggable: false });
  const mark = make('div', { className: 'aloe-mark', hidden: true });
  const stack = make('div', { className: 'aloe-stack' }, under, over, mark);
  stack.classList.toggle('aloe-pixels', columns < SMALL);
  stack.addEventListener('pointermove', event => point(...place(event, stack)));
  stack.addEventListener('pointerdown', event => point(...place(event, stack)));
  const reading = make('p', { className: 'aloe-reading', text: '' });
  const own = panel.residual !== null;
  const sum = own ? ' = pixels ' + number(panel.sum) + ', constants ' + number(panel.residual) : '';
  const words = (panel.target ? panel.target + ': ' : '') + number(panel.value) + sum;
  const save = make('a', { className: 'aloe-save', text: 'PNG', download: file(image.name + '-' + panel.model + '-' + panel.method, '.png') });
  const figure = make('figure', { className: 'aloe-panel', data: { model: panel.model, method: panel.method } }, head, stack, reading,
    make('p', { className: 'aloe-value', text: words }),
    make('p', { className: 'aloe-small' }, make('span', { text: panel.seconds.toFixed(2) + ' s ' }), save));
  maps.push({ values: floats(panel.values), rows, columns, reading, mark, over, under, save, panel, figure });
  return figure;
}

// from 0, the image, to 1, the explanation over white; half way the explanation is whole and the image pale
function mix() {
  const share = overlay.value / 100;
  for (const { under, over, save, panel } of maps) {
    const kind = panel.pictures.colour && !signed.checked ? 'colour' : 'signed';
    if (over.dataset.kind !== kind) { over.src = save.href = panel.pictures[kind]; over.dataset.kind = kind; }
    under.style.opacity = 1 - share;
    over.style.opacity = Math.min(1, 2 * share);
    over.style.mixBlendMode = kind === 'signed' ? 'multiply' : 'normal';
  }
  signed.disabled = !maps.some(({ panel }) => panel.pictures.colour);
}

const clamp = x => Math.min(1, Math.max(0, x));
function place(event, stack) {
  const { left, top, width, height } = stack.getBoundingClientRect();
  return [clamp((event.clientX - left) / width), clamp((event.clientY - top) / height)];
}

function point(x, y) { cursor = [x, y]; read(); }

function read() {
  if (!cursor) return;
  const [x, y] = cursor;
  for (const { values, rows, columns, reading } of maps) {
    const column = Math.min(columns - 1, Math.floor(x * columns)), row = Math.min(rows - 1, Math.floor(y * rows));
    const value = values[row * columns + column];
    reading.textContent = 'pixel (' + column + ', ' + row + '): ' + number(value);
    Object.assign(reading.dataset, { row, column, value: String(value) });
  }
  for (const mark of element.querySelectorAll('.aloe-mark')) {
    mark.hidden = false;
    mark.style.left = 100 * x + '%';
    mark.style.top = 100 * y + '%';
  }
}

function stretch([x0, y0], [x1, y1]) {
  box = [Math.min(x0, x1), Math.min(y0, y1), Math.max(x0, x1), Math.max(y0, y1)];
  frame();
  ask(false);
}

function frame() {
  const select = element.querySelector('.aloe-selection');
  if (!select) return;
  select.hidden = !box;
  if (!box) return;
  const [left, top, right, bottom] = box.map(x => 100 * x);
  Object.assign(select.style, { left: left + '%', top: top + '%', width: right - left + '%', height: bottom - top + '%' });
}

// now and then while a rectangle is dragged, and once at its end
function ask(now) {
  clearTimeout(waiting);
  if (!box || box[0] >= box[2] || box[1] >= box[3]) return;
  const wait = last + EVERY - performance.now();
  if (!now && wait > 0) { waiting = setTimeout(() => ask(true), wait); return; }
  last = performance.now();
  trigger('region', { box: [...box], keep: Boolean(keep.value), fill: fill.value });
}

function drawChange() {
  if (!box || !props.change) return;
  const lines = props.change.map(c => {
    const share = x => c.what.startsWith('similarity') ? x.toFixed(3) : (100 * x).toFixed(2) + ' %';
    const bars = [c.before, c.after].map(x => {
      const bar = make('i');
      bar.style.width = 100 * clamp(x) + '%';
      return make('span', { className: 'aloe-bar' }, bar);
    });
    const data = { model: c.model, before: String(c.before), after: String(c.after) };
    return make('div', { className: 'aloe-change', data }, make('img', { src: c.picture, alt: 'what ' + c.model + ' sees' }),
      make('div', {}, make('b', { text: c.model }), make('span', { text: c.target + ', ' + c.what }),
        make('span', { className: 'aloe-numbers', text: share(c.before) + ' → ' + share(c.after) }), ...bars,
        make('span', { text: 'value ' + number(c.value) + ' → ' + number(c.value_after) })));
  });
  results.replaceChildren(...(lines.length ? lines : [make('p', { text: 'None of the models knows what is explained.' })]));
}

function download() {
  const { image, panels: all, sheet, busy, turn, at, ...rest } = current;
  const { picture, ...described } = image;
  const explained = all.filter(p => p.values).map(({ pictures, values, ...facts }, i) => {
    const { rows, columns, values: exact } = maps[i];
    return { ...facts, contributions: Array.from({ length: rows }, (_, r) => Array.from(exact.subarray(r * columns, (r + 1) * columns))) };
  });
  const url = URL.createObjectURL(new Blob([JSON.stringify({ ...rest, image: described, panels: explained })], { type: 'application/json' }));
  make('a', { href: url, download: file(image.name, '.json') }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

overlay.addEventListener('input', mix);
signed.addEventListener('change', mix);
find('json').addEventListener('click', download);
for (const control of [keep, fill]) control.addEventListener('change', () => ask(true));
watch('value', draw);
watch('change', drawChange);
draw();
