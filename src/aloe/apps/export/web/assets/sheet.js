// One PNG of what is shown: the image, the explanation in colour over white, the signed map, and the words below.
const CELL = 448, GAP = 16, LINE = 24;

export async function drawSheet(side, pictures, lines) {
  const width = pictures.length * CELL + (pictures.length + 1) * GAP, height = CELL + (lines.length + 1) * LINE + 2 * GAP;
  const sheet = new OffscreenCanvas(width, height), context = sheet.getContext('2d');
  context.fillStyle = '#fff';
  context.fillRect(0, 0, width, height);
  context.imageSmoothingEnabled = side >= 160;
  for (const [i, rgba] of pictures.entries()) {
    const cell = new OffscreenCanvas(side, side);
    cell.getContext('2d').putImageData(new ImageData(rgba, side, side), 0, 0);
    context.drawImage(cell, GAP + i * (CELL + GAP), GAP, CELL, CELL);
  }
  context.fillStyle = '#111';
  context.font = '16px system-ui, sans-serif';
  lines.forEach((line, i) => context.fillText(line, GAP, CELL + 2 * GAP + (i + 0.7) * LINE, width - 2 * GAP));
  return sheet.convertToBlob({ type: 'image/png' });
}

export function save(blob, name) {
  const url = URL.createObjectURL(blob), link = document.createElement('a');
  Object.assign(link, { href: url, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

export const fileName = (name, ending) => `${name.replace(/\.[^.]*$/, '').replace(/[^\w-]+/g, '_').slice(-60) || 'image'}-${ending}`;
