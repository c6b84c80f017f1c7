// The picker of images: thumbnails that are buttons, and files that travel to the server in base64, one after the other.
const input = element.querySelector('input[type=file]');
const strip = element.querySelector('.aloe-thumbnails');
const drop = element.querySelector('.aloe-drop');

function draw() {
  const value = props.value;
  if (!value) return;
  const before = strip.contains(document.activeElement) ? [...strip.children].indexOf(document.activeElement) : -1;
  strip.replaceChildren(...value.images.map((image, index) => {
    const button = document.createElement('button');
    const picture = document.createElement('img');
    button.type = 'button';
    button.title = image.name;
    button.setAttribute('aria-label', image.name);
    button.setAttribute('aria-pressed', String(index === value.index));
    picture.src = image.picture;
    picture.alt = '';
    button.append(picture);
    button.addEventListener('click', () => trigger('pick', { index }));
    return button;
  }));
  if (before >= 0) strip.children[before]?.focus();
}

async function send(files) {
  for (const file of files) {
    if (file.size > props.max_bytes) {
      trigger('upload', { name: file.name, size: file.size }); // the server has the words for it
      continue;
    }
    const bytes = new Uint8Array(await file.arrayBuffer());
    let text = '';
    for (let i = 0; i < bytes.length; i += 32768) text += String.fromCharCode(...bytes.subarray(i, i + 32768));
    trigger('upload', { name: file.name, data: btoa(text) });
  }
}

input.addEventListener('change', () => send([...input.files]).then(() => { input.value = ''; }));
drop.addEventListener('dragover', event => event.preventDefault());
drop.addEventListener('drop', event => { event.preventDefault(); send([...event.dataTransfer.files]); });
watch('value', draw);
draw();
