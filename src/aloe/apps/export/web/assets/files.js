// The files of this folder, and nothing else: every address is relative to it, so that the folder may lie anywhere.
export class Missing extends Error {}

const address = name => new URL(name, import.meta.url);

async function answer(name, options) {
  let found;
  try {
    found = await fetch(address(name), options);
  } catch {
    throw new Missing(`${name} cannot be fetched: reload the page, or ask who serves it.`);
  }
  if (!found.ok) throw new Missing(`${name} is missing from the folder of this page (${found.status}).`);
  return found;
}

export const readJson = async name => (await answer(name)).json();
export const readText = async name => (await answer(name)).text();

// The bytes of a file, unpacked where it is gzip; `progress` hears of every part that arrives, in bytes.
export async function readBytes({ file, integrity }, progress = () => {}) {
  const found = await answer(file, integrity ? { integrity, referrerPolicy: 'no-referrer' } : {});
  const reader = found.body.getReader(), parts = [];
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    progress(value.length);
  }
  const blob = new Blob(parts), begin = new Uint8Array(await blob.slice(0, 2).arrayBuffer());
  const packed = begin[0] === 0x1f && begin[1] === 0x8b; // some servers unpack what ends in .gz
  return packed ? new Response(blob.stream().pipeThrough(new DecompressionStream('gzip'))).arrayBuffer() : blob.arrayBuffer();
}
