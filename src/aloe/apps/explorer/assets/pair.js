// Two images beside one another: draws what the server sent (`pair_controls.py`) and sends rectangles back. Whatever text came
// with it is set as text, never as HTML.
const compare = find('compare'), swap = find('swap'), kind = find('pair-kind'), signed = kind.querySelector('input');
const words = find('pair-words'), sides = find('sides'), near = find('near'), busy = find('busy');
let open = false, first = '', box = null, owner = null, start = null, last = 0, waiting = 0, shown = {};

const number = x => (x < 0 ? '\u2212' : '') + Math.abs(x).toFixed(4);
const other = side => (side === 'a' ? 'b' : 'a');
const clamp = x => Math.min(1, Math.max(0, x));
const sums = part => number(part.value) + ' = pixels ' + number(part.sum) + ', constants ' + number(part.residual);

function draw() {
  const value = props.value;
  if (!value) return;
  box = owner = start = null;
  if (value.first !== undefined) { // another image is looked at: what was compared with it is gone
    first = value.first;
    shown = {};
    sides.replaceChildren();
    near.replaceChildren();
    words.textContent = '';
    swap.hidden = kind.hidden = true;
    if (open) ask('near');
    return;
  }
  swap.hidden = kind.hidden = false;
  busy.textContent = '';
  shown = { a: value.a, b: value.b };
  sides.replaceChildren(drawSide('a', value.a), drawSide('b', value.b));
  tell(value.model + ': cosine ' + number(value.cosine) + '. Drag a rectangle on one image: the other shows what is like it.');
  mix();
}

function tell(text) { words.textContent = text; }

function drawSide(side, image) {
  const under = make('img', { src: image.picture, alt: image.name, draggable: false });
  const over = make('img', { className: 'aloe-map', alt: 'what in it is like the other', draggable: false });
  const select = make('div', { className: 'aloe-selection', hidden: true });
  const stack = make('div', { className: 'aloe-stack aloe-input', tabIndex: 0, data: { side } }, under, over, select);
  stack.classList.toggle('aloe-pixels', image.pixels < SMALL);
  stack.addEventListener('pointerdown', event => {
    if (event.button) return;
    stack.setPointerCapture(event.pointerId);
    start = place(event, stack);
  });
  stack.addEventListener('pointermove', event => {
    if (!start) return;
    const [x, y] = place(event, stack);
    if (Math.max(Math.abs(x - start[0]), Math.abs(y - start[1])) * stack.clientWidth > 4) stretch(side, start, [x, y]);
  });
  stack.addEventListener('pointerup', () => { start = null; if (box) question(true); });
  stack.addEventListener('pointercancel', () => { start = null; });
  stack.addEventListener('keydown', event => keys(event, side));
  return make('figure', { className: 'aloe-panel', data: { side } },
    make('figcaption', {}, make('b', { text: image.name }), make('span', { text: 'what in it is like the other' })), stack,
    make('p', { className: 'aloe-value', text: sums(image) }));
}

// arrows move a rectangle of a quarter of the side, with Shift its lower right corner; Escape takes it away
function keys(event, side) {
  const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (event.key === 'Escape') { clear(); return; }
  if (!step) return;
  event.preventDefault();
  const [x, y] = step.map(s => s / 16);
  if (!box || owner !== side) { stretch(side, [0.375, 0.375], [0.625, 0.625]); return; }
  const [left, top, right, bottom] = box;
  if (event.shiftKey) stretch(side, [left, top], [clamp(Math.max(left + 1 / 16, right + x)), clamp(Math.max(top + 1 / 16, bottom + y))]);
  else if (left + x >= 0 && right + x <= 1 && top + y >= 0 && bottom + y <= 1) stretch(side, [left + x, top + y], [right + x, bottom + y]);
}

function clear() {
  box = owner = start = null;
  shown = { a: props.value.a, b: props.value.b };
  frame();
  mix();
}

function place(event, stack) {
  const { left, top, width, height } = stack.getBoundingClientRect();
  return [clamp((event.clientX - left) / width), clamp((event.clientY - top) / height)];
}

function stretch(side, [x0, y0], [x1, y1]) {
  box = [Math.min(x0, x1), Math.min(y0, y1), Math.max(x0, x1), Math.max(y0, y1)];
  owner = side;
  frame();
  question(false);
}

function frame() {
  for (const figure of sides.children) {
    const select = figure.querySelector('.aloe-selection'), mine = box && figure.dataset.side === owner;
    select.hidden = !mine;
    if (!mine) continue;
    const [left, top, right, bottom] = box.map(x => 100 * x);
    Object.assign(select.style, { left: left + '%', top: top + '%', width: right - left + '%', height: bottom - top + '%' });
  }
  mix();
}

// now and then while a rectangle is dragged, and once at its end
function question(now) {
  clearTimeout(waiting);
  if (!box || box[0] >= box[2] || box[1] >= box[3]) return;
  const wait = last + EVERY - performance.now();
  if (!now && wait > 0) { waiting = setTimeout(() => question(true), wait); return; }
  last = performance.now();
  trigger('part', { side: owner, box: [...box] });
}

function drawAnswer() {
  const answer = props.answer;
  if (!answer || !box || answer.side !== other(owner)) return;
  shown = { ...shown, [answer.side]: answer };
  sides.dataset.seconds = answer.seconds;
  sides.dataset.answers = Number(sides.dataset.answers || 0) + 1;
  mix();
}

// the side with the rectangle shows its image, the other what is like the rectangle; without one both show their maps
function mix() {
  for (const figure of sides.children) {
    const side = figure.dataset.side, part = shown[side], over = figure.querySelector('.aloe-map'), asked = box && side === owner;
    over.src = part.maps[signed.checked ? 'signed' : 'colour'];
    over.style.mixBlendMode = signed.checked ? 'multiply' : 'normal';
    over.style.opacity = asked ? 0 : 1;
    figure.querySelector('img').style.opacity = asked ? 1 : 0.3;
    figure.querySelector('span').textContent = asked ? 'the rectangle' : box ? 'what in it is like the rectangle' : 'what in it is like the other';
    figure.querySelector('.aloe-value').textContent = asked ? '' : sums(part);
  }
}

function drawNear() {
  const value = props.near;
  if (!value || value.of !== first) return;
  busy.textContent = '';
  near.replaceChildren(make('h3', { text: 'Nearest to ' + first }), ...value.images.map(({ index, name, picture, cosine }) => {
    const button = make('button', { type: 'button', title: name, data: { index } },
      make('img', { src: picture, alt: '' }), make('span', { text: cosine.toFixed(3) }));
    button.setAttribute('aria-label', name + ', cosine ' + cosine.toFixed(3));
    button.addEventListener('click', () => second(index));
    return button;
  }));
  if (!shown.a && value.images.length) second(value.images[0].index);
}

function second(index) {
  for (const button of near.querySelectorAll('button')) button.setAttribute('aria-pressed', String(Number(button.dataset.index) === index));
  ask('second', { index });
}

function ask(event, data = {}) {
  busy.textContent = '…';
  trigger(event, data);
}

compare.addEventListener('click', () => { open = true; ask('near'); });
swap.addEventListener('click', () => ask('swap'));
signed.addEventListener('change', mix);
watch('value', draw);
watch('near', drawNear);
watch('answer', drawAnswer);
watch('mistake', () => { busy.textContent = ''; });
draw();
