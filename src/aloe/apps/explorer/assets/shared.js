// What the view and the pair of images share; it stands before the script of each.
const find = name => element.querySelector('.aloe-' + name);
const SMALL = 160; // images of fewer pixels are shown with their pixels
const EVERY = 150; // milliseconds between two questions while a rectangle is dragged

function make(tag, options = {}, ...children) {
  const { text, data, ...rest } = options;
  const node = Object.assign(document.createElement(tag), rest);
  if (text !== undefined) node.textContent = text;
  Object.assign(node.dataset, data || {});
  node.append(...children);
  return node;
}
