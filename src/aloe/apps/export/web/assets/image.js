// Files to images: what a file is by its first bytes, how large it says it is, and its pixels, upright and over white.
// Whatever cannot be explained is refused in one sentence, before a pixel is decoded.
export const LIMITS = { bytes: 100 << 20, pixels: 50e6, aspect: 100 };

export class Refused extends Error {}

const text = (bytes, from, to) => String.fromCharCode(...bytes.subarray(from, to));
const big = (bytes, at, count) => bytes.subarray(at, at + count).reduce((sum, byte) => sum * 256 + byte, 0);
const little = (bytes, at, count) => bytes.subarray(at, at + count).reduceRight((sum, byte) => sum * 256 + byte, 0);

// Kinds by their first bytes: the MIME type and, where the header says it, the size.
const KINDS = [
  { type: 'image/jpeg', is: b => b[0] === 0xff && b[1] === 0xd8 && b[2] === 0xff, size: jpegSize },
  { type: 'image/png', is: b => text(b, 1, 4) === 'PNG', size: b => [big(b, 16, 4), big(b, 20, 4)] },
  { type: 'image/gif', is: b => text(b, 0, 4) === 'GIF8', size: b => [little(b, 6, 2), little(b, 8, 2)] },
  { type: 'image/webp', is: b => text(b, 0, 4) === 'RIFF' && text(b, 8, 12) === 'WEBP', size: webpSize },
  { type: 'image/bmp', is: b => text(b, 0, 2) === 'BM', size: b => [little(b, 18, 4), Math.abs(little(b, 22, 4) | 0)] },
  { type: 'image/avif', is: b => /^ftypavi[fs]$/.test(text(b, 4, 12)) },
];
const OTHERS = [
  [b => /^ftyp(hei|hev|mif1|msf1)/.test(text(b, 4, 12)), 'a HEIC photograph, which browsers do not read: save it as JPEG'],
  [b => ['II*\0', 'MM\0*'].includes(text(b, 0, 4)), 'a TIFF, which browsers do not read: save it as PNG or JPEG'],
  [b => text(b, 0, 5) === '%PDF-', 'a PDF: save the picture in it as PNG or JPEG'],
];

// A file to its pixels: { width, height, rows, note }. rows(first, count) gives RGBA bytes over white; note is a sentence or ''.
export async function open(file, name = file.name || 'The image') {
  if (file.size > LIMITS.bytes) {
    throw new Refused(`${name} has ${megabytes(file.size)}; an image may have ${megabytes(LIMITS.bytes)}.`);
  }
  const bytes = new Uint8Array(await file.arrayBuffer());
  const kind = KINDS.find(({ is }) => is(bytes));
  if (!kind) throw new Refused(`${name} is ${whatElse(bytes)}.`);
  const size = kind.size?.(bytes);
  if (size) checkSize(name, ...size);
  const bitmap = await decode(new Blob([bytes], { type: kind.type }), name);
  checkSize(name, bitmap.width, bitmap.height);
  const note = kind.type === 'image/gif' ? `${name} is a GIF: its first frame is explained.` : '';
  return { ...pixelsOf(bitmap, name), note };
}

// What has been decoded already (a bitmap, or the frame of a camera).
export function pixelsOf(bitmap, name = 'The image') {
  const { width, height } = bitmap;
  let canvas = null, context = null;
  const rows = (first, count) => {
    if (!canvas || canvas.height < count) {
      canvas = new OffscreenCanvas(width, count);
      context = canvas.getContext('2d', { willReadFrequently: true });
      if (!context) throw new Refused(`${name} is too wide for this browser: make it smaller.`);
    }
    context.fillStyle = '#fff';
    context.fillRect(0, 0, width, count);
    context.drawImage(bitmap, 0, first, width, count, 0, 0, width, count);
    return context.getImageData(0, 0, width, count).data;
  };
  return { width, height, rows, note: '' };
}

async function decode(blob, name) {
  try {
    return await createImageBitmap(blob, { imageOrientation: 'from-image', colorSpaceConversion: 'none', premultiplyAlpha: 'none' });
  } catch {
    throw new Refused(`${name} is damaged, or of a kind that this browser does not read.`);
  }
}

export function checkSize(name, width, height) {
  if (!(width > 0 && height > 0)) throw new Refused(`${name} is damaged: it has no pixels.`);
  if (width * height > LIMITS.pixels) {
    const millions = n => (n / 1e6).toFixed(n % 1e6 ? 1 : 0);
    throw new Refused(`${name} has ${width} x ${height} pixels, ${millions(width * height)} million; an image may have `
      + `${millions(LIMITS.pixels)} million: make it smaller.`);
  }
  if (Math.max(width, height) > LIMITS.aspect * Math.min(width, height)) {
    throw new Refused(`${name} has ${width} x ${height} pixels, a shape that no square can be cut from.`);
  }
}

function whatElse(bytes) {
  if (!bytes.length) return 'empty';
  const other = OTHERS.find(([is]) => is(bytes));
  if (other) return other[1];
  const begin = bytes.subarray(0, 1024);
  if (/^\s*(<\?xml[^]*)?(<!--[^]*)?(<!DOCTYPE svg[^]*)?<svg[\s>]/i.test(text(begin, 0, begin.length).replace(/^\u00ef\u00bb\u00bf/, ''))) {
    return 'an SVG, a drawing without pixels: save it as PNG';
  }
  const readable = begin.every(byte => byte > 31 || [9, 10, 12, 13].includes(byte));
  return readable ? 'no image but a text, whatever its name says' : 'no image of a kind that is read (JPEG, PNG, WebP, AVIF, BMP, GIF)';
}

// The first frame header among the segments of a JPEG.
function jpegSize(bytes) {
  let at = 2;
  while (at + 9 < bytes.length) {
    if (bytes[at] !== 0xff) { at += 1; continue; }
    const marker = bytes[at + 1];
    if (marker === 0xff) { at += 1; continue; }
    if (marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker)) return [big(bytes, at + 7, 2), big(bytes, at + 5, 2)];
    at += marker >= 0xd0 && marker <= 0xd9 ? 2 : 2 + big(bytes, at + 2, 2);
  }
  return undefined;
}

function webpSize(bytes) {
  const kind = text(bytes, 12, 16);
  if (kind === 'VP8X') return [little(bytes, 24, 3) + 1, little(bytes, 27, 3) + 1];
  if (kind === 'VP8 ') return [little(bytes, 26, 2) & 0x3fff, little(bytes, 28, 2) & 0x3fff];
  const packed = little(bytes, 21, 4);
  return kind === 'VP8L' ? [(packed & 0x3fff) + 1, ((packed >>> 14) & 0x3fff) + 1] : undefined;
}

export const megabytes = bytes => `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;
