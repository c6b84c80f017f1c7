// Maps to pixels, the twin of `aloe/draw/explanations.py`: the colour explanation and the signed map.
import { roundEven } from './resize.js';

const PERCENTILE = 99.5;
const POSITIVE = [0.7, 0.02, 0.15], NEGATIVE = [0.02, 0.3, 0.62];
const TINY = 1e-20;

// weights: six planes (r, g, b, 1-r, 1-g, 1-b) of height x width; contributions: one. Returns RGBA bytes.
export function colourExplanation(weights, contributions, height, width, smooth = 0) {
  const size = height * width, rgba = new Uint8ClampedArray(4 * size);
  let alpha = new Float32Array(size);
  for (let i = 0; i < size; i++) {
    let largest = TINY, square = 0;
    for (let c = 0; c < 6; c++) {
      const value = weights[c * size + i];
      largest = Math.max(largest, Math.abs(value));
      square += value * value;
    }
    for (let c = 0; c < 3; c++) {
      const own = Math.max(0, Math.fround(weights[c * size + i] / largest));
      const both = own + Math.max(0, Math.fround(weights[(c + 3) * size + i] / largest));
      rgba[4 * i + c] = roundEven(Math.fround(own / Math.max(both, TINY)) * 255);
    }
    alpha[i] = contributions[i] > 0 ? Math.sqrt(square) : 0;
  }
  alpha = gaussianSmooth(alpha, height, width, smooth || defaultWindow(width));
  const top = percentile(alpha);
  for (let i = 0; i < size; i++) rgba[4 * i + 3] = roundEven(Math.min(1, Math.max(0, Math.fround(alpha[i] / top))) * 255);
  return rgba;
}

// White is 0, red raises the value, blue lowers it; clipped at the 99.5th percentile of the size. Returns RGBA bytes, opaque.
export function signedMap(contributions) {
  const size = contributions.length, rgba = new Uint8ClampedArray(4 * size).fill(255);
  const top = percentile(contributions.map(Math.abs));
  for (let i = 0; i < size; i++) {
    const value = Math.min(1, Math.max(-1, Math.fround(contributions[i] / top)));
    const ends = value > 0 ? POSITIVE : NEGATIVE;
    for (let c = 0; c < 3; c++) {
      const end = Math.fround(Math.fround(ends[c]) - 1);
      rgba[4 * i + c] = roundEven(Math.fround(1 + Math.fround(Math.abs(value) * end)) * 255);
    }
  }
  return rgba;
}

// A Gaussian of an odd window (sigma = window / 6), edges repeated; an even window becomes the next odd one.
export function gaussianSmooth(map, height, width, window) {
  if (window <= 1) return map;
  const reach = window >> 1;
  const taps = Float64Array.from({ length: 2 * reach + 1 }, (_, i) => Math.exp(-0.5 * ((i - reach) / ((2 * reach + 1) / 6)) ** 2));
  const sum = taps.reduce((a, b) => a + b, 0);
  const pass = (from, lines, length, along, across) => {
    const found = new Float32Array(from.length);
    for (let line = 0; line < lines; line++) {
      for (let i = 0; i < length; i++) {
        let value = 0;
        for (let k = -reach; k <= reach; k++) {
          const at = Math.min(length - 1, Math.max(0, i + k));
          value += (taps[k + reach] / sum) * from[line * across + at * along];
        }
        found[line * across + i * along] = value;
      }
    }
    return found;
  };
  return pass(pass(map, height, width, 1, width), width, height, width, 1);
}

export const defaultWindow = pixels => 2 * roundEven((15 * pixels) / 224 / 2 - 0.5) + 1;

// The 99.5th percentile, between neighbours on a line; never 0.
export function percentile(values) {
  const sorted = Float32Array.from(values).sort();
  const rank = Math.fround(Math.fround(PERCENTILE / 100) * Math.fround(sorted.length - 1));
  const low = Math.floor(rank), high = Math.min(sorted.length - 1, low + 1);
  return Math.max(TINY, Math.fround(sorted[low] + Math.fround(rank - low) * (sorted[high] - sorted[low])));
}
