// What is seen of an image and its explanation: two squares with one pixel that is read in both, and a rectangle in the first.
import { colourExplanation, signedMap } from './colour.js';

const SMALL = 160; // images of fewer pixels are shown with their pixels
const clamp = x => Math.min(1, Math.max(0, x));
const find = selector => document.querySelector(selector);

export const signed = (x, digits = 4) => (x < 0 ? '−' : '+') + Math.abs(x).toPrecision(digits);
export const share = x => `${(100 * x).toFixed(x > 0 && x < 0.001 ? 3 : 1)} %`;

export function make(tag, options = {}, ...children) {
  const { text, data, ...rest } = options, node = Object.assign(document.createElement(tag), rest);
  if (text !== undefined) node.textContent = text;
  Object.assign(node.dataset, data ?? {});
  node.append(...children);
  return node;
}

function put(canvas, rgba, side) {
  Object.assign(canvas, { width: side, height: side });
  canvas.getContext('2d').putImageData(new ImageData(rgba, side, side), 0, 0);
}

// RGB bytes, and where they are kept, to RGBA bytes.
export function toRgba(rgb, keep = null) {
  const rgba = new Uint8ClampedArray((rgb.length / 3) * 4);
  for (let i = 0; i < rgba.length / 4; i++) {
    for (let c = 0; c < 3; c++) rgba[4 * i + c] = rgb[3 * i + c];
    rgba[4 * i + 3] = keep && !keep[i] ? 0 : 255;
  }
  return rgba;
}

export class View {
  box = null; // [left, top, right, bottom], shares of the square
  cursor = null; // [x, y], shares of the square
  #start = null;
  #explanation = null;

  // onBox(done): the rectangle has changed, or with `done` will not change any more
  constructor(side, onBox) {
    Object.assign(this, { side, onBox });
    for (const stack of document.querySelectorAll('.stack')) {
      stack.classList.toggle('pixels', side < SMALL);
      for (const name of ['pointermove', 'pointerdown']) stack.addEventListener(name, event => this.read(this.#place(event, stack)));
    }
    this.#listen(find('#input'));
    find('#overlay').addEventListener('input', () => this.mix());
    for (const radio of document.querySelectorAll('[name=kind]')) radio.addEventListener('change', () => this.mix());
  }

  get kind() { return find('[name=kind]:checked').value; }

  // What is left of the image, RGBA bytes.
  showImageOnly(rgba) { put(find('#input canvas'), rgba, this.side); }

  // A new image, side x side x 3 bytes.
  showImage(rgb) {
    Object.assign(this, { box: null, cursor: null });
    this.#explanation = null;
    this.#frame();
    for (const mark of document.querySelectorAll('.mark')) mark.hidden = true;
    for (const canvas of [find('#input canvas'), find('#map canvas')]) put(canvas, toRgba(rgb), this.side);
    put(find('#map .over'), new Uint8ClampedArray(4 * this.side ** 2), this.side);
  }

  showExplanation(found) {
    const { side } = this;
    this.#explanation = {
      values: found.contributions,
      colour: colourExplanation(found.weights, found.contributions, side, side),
      signed: signedMap(found.contributions),
    };
    this.mix();
    if (this.cursor) this.read(this.cursor);
  }

  get pictures() { return this.#explanation; }

  // From 0, the image, to 1, the explanation over white; half way the explanation is whole and the image pale.
  mix() {
    if (!this.#explanation) return;
    const part = find('#overlay').value / 100, [under, over] = document.querySelectorAll('#map canvas');
    put(over, this.#explanation[this.kind], this.side);
    under.style.opacity = 1 - part;
    over.style.opacity = Math.min(1, 2 * part);
    over.style.mixBlendMode = this.kind === 'signed' ? 'multiply' : 'normal';
  }

  read([x, y]) {
    this.cursor = [x, y];
    for (const mark of document.querySelectorAll('.mark')) {
      mark.hidden = false;
      Object.assign(mark.style, { left: `${100 * x}%`, top: `${100 * y}%` });
    }
    if (!this.#explanation) return;
    const [column, row] = [x, y].map(v => Math.min(this.side - 1, Math.floor(v * this.side)));
    const value = this.#explanation.values[row * this.side + column];
    find('#reading').textContent = `Pixel (${column}, ${row}) adds ${signed(value)}`;
    Object.assign(find('#reading').dataset, { row, column, value });
  }

  // The rectangle in whole pixels, at least one in each direction, as a plane of what is kept.
  keep(only) {
    const { side } = this;
    let [left, top, right, bottom] = this.box.map(v => Math.min(side, Math.floor(v * side + 0.5)));
    [left, top] = [Math.min(left, side - 1), Math.min(top, side - 1)];
    [right, bottom] = [Math.max(right, left + 1), Math.max(bottom, top + 1)];
    const plane = new Float32Array(side * side).fill(only ? 0 : 1);
    for (let y = top; y < bottom; y++) plane.fill(only ? 1 : 0, y * side + left, y * side + right);
    return plane;
  }

  clear() {
    this.box = this.#start = null;
    this.#frame();
    this.onBox(true);
  }

  #listen(stack) {
    stack.addEventListener('pointerdown', event => {
      if (event.button) return;
      stack.setPointerCapture(event.pointerId);
      this.#start = this.#place(event, stack);
    });
    stack.addEventListener('pointermove', event => {
      const [x, y] = this.#place(event, stack);
      if (!this.#start || !stack.hasPointerCapture(event.pointerId)) return;
      if (Math.max(Math.abs(x - this.#start[0]), Math.abs(y - this.#start[1])) * stack.clientWidth > 4) this.#stretch(this.#start, [x, y]);
    });
    stack.addEventListener('pointerup', () => { this.#start = null; if (this.box) this.onBox(true); });
    stack.addEventListener('pointercancel', () => { this.#start = null; });
    stack.addEventListener('blur', () => { this.#start = null; });
    stack.addEventListener('keydown', event => {
      const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (event.key === 'Escape') this.clear();
      if (!step) return;
      event.preventDefault();
      const many = event.ctrlKey ? 1 : Math.max(1, Math.round(this.side / 32)), at = this.cursor ?? [0.5, 0.5];
      const next = at.map((v, i) => clamp(v + (step[i] * many) / this.side));
      if (event.shiftKey) { this.#start ??= at; this.#stretch(this.#start, next); } else this.#start = null;
      this.read(next);
    });
  }

  #stretch([x0, y0], [x1, y1]) {
    this.box = [Math.min(x0, x1), Math.min(y0, y1), Math.max(x0, x1), Math.max(y0, y1)];
    this.#frame();
    this.onBox(false);
  }

  #frame() {
    const frame = find('.box');
    frame.hidden = !this.box;
    if (!this.box) return;
    const [left, top, right, bottom] = this.box.map(v => 100 * v);
    Object.assign(frame.style, { left: `${left}%`, top: `${top}%`, width: `${right - left}%`, height: `${bottom - top}%` });
  }

  #place(event, stack) {
    const { left, top, width, height } = stack.getBoundingClientRect();
    return [clamp((event.clientX - left) / width), clamp((event.clientY - top) / height)];
  }
}
