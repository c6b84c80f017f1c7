// The central square of an image at the model's size, byte for byte as Pillow makes it (`ResizeCenterCrop` in Python).
//
// Antialiased resampling: output pixel i is the mean of the input under a kernel at (i + 0.5) * scale, which is stretched by the
// scale where the image shrinks. Weights are rounded to 22 bits after the point, rows are resampled and rounded to bytes before
// columns.
const BITS = 22;
const STRIP = 4 << 20; // bytes of rows that are read at a time

const cubic = (x, a = -0.5) =>
  x < 1 ? ((a + 2) * x - (a + 3)) * x * x + 1 : x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
export const FILTERS = {
  bilinear: { support: 1, kernel: x => Math.max(0, 1 - Math.abs(x)) },
  bicubic: { support: 2, kernel: x => cubic(Math.abs(x)) },
};

// Python's round: halves go to the even number.
export function roundEven(x) {
  const low = Math.floor(x);
  return x - low === 0.5 ? low + (low & 1) : Math.round(x);
}

// The size that an image of width x height is brought to, and the corner of the square that is cut from it.
export function plan(width, height, { side, shorter }) {
  const scale = shorter / Math.min(width, height);
  const [w, h] = [width, height].map(n => Math.max(shorter, Math.floor(n * scale + 1e-9)));
  return { width: w, height: h, left: roundEven((w - side) / 2), top: roundEven((h - side) / 2) };
}

// For outputs [from, from + count) of a line of `length` pixels brought to `size`: the first input and the weights of each.
export function taps(length, size, filter, from, count) {
  const scale = length / size, stretch = Math.max(1, scale), reach = filter.support * stretch;
  return Array.from({ length: count }, (_, i) => {
    const centre = (from + i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - reach + 0.5));
    const last = Math.min(length, Math.trunc(centre + reach + 0.5));
    const weights = Array.from({ length: last - first }, (_, k) => filter.kernel((first + k - centre + 0.5) / stretch));
    const sum = weights.reduce((a, b) => a + b, 0) || 1;
    return { first, weights: Int32Array.from(weights, w => Math.trunc((w / sum) * 2 ** BITS + Math.sign(w) * 0.5)) };
  });
}

const toByte = sum => Math.min(255, Math.max(0, Math.floor((sum + 2 ** (BITS - 1)) / 2 ** BITS)));

// readRows(first, count) gives the RGBA bytes of whole rows. Returns RGB bytes, side x side x 3.
export function square(readRows, width, height, { side, shorter, resample }) {
  const to = plan(width, height, { side, shorter }), filter = FILTERS[resample];
  const across = taps(width, to.width, filter, to.left, side);
  const down = taps(height, to.height, filter, to.top, side);
  const from = down[0].first, until = down[side - 1].first + down[side - 1].weights.length;
  const lines = new Uint8Array((until - from) * side * 3);
  const strip = Math.max(1, Math.floor(STRIP / (4 * width)));
  for (let y = from; y < until; y += strip) {
    const rows = Math.min(strip, until - y);
    narrow(readRows(y, rows), width, rows, across, lines.subarray((y - from) * side * 3));
  }
  return flatten(lines, from, side, down);
}

function narrow(rgba, width, rows, across, lines) {
  let at = 0;
  for (let y = 0; y < rows; y++) {
    for (const { first, weights } of across) {
      let place = 4 * (y * width + first), r = 0, g = 0, b = 0;
      for (const weight of weights) {
        r += weight * rgba[place];
        g += weight * rgba[place + 1];
        b += weight * rgba[place + 2];
        place += 4;
      }
      lines[at++] = toByte(r);
      lines[at++] = toByte(g);
      lines[at++] = toByte(b);
    }
  }
}

function flatten(lines, from, side, down) {
  const found = new Uint8Array(side * side * 3), row = 3 * side;
  down.forEach(({ first, weights }, y) => {
    for (let x = 0; x < row; x++) {
      let sum = 0;
      for (let k = 0; k < weights.length; k++) sum += weights[k] * lines[(first - from + k) * row + x];
      found[y * row + x] = toByte(sum);
    }
  });
  return found;
}

// RGB bytes (side x side x 3) to the numbers that the model reads: three planes in [0, 1].
export function planes(rgb, side) {
  const found = new Float32Array(3 * side * side), size = side * side;
  for (let i = 0; i < size; i++) for (let c = 0; c < 3; c++) found[c * size + i] = rgb[3 * i + c] / 255;
  return found;
}
