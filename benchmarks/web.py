"""A student's page in headless Chromium: sizes, seconds until the first explanation and of each, differences from PyTorch.

One core, WebAssembly without threads (a plain static server sends no headers that allow them). Images go in as files,
and what the page's own modules give is compared with `aloe.explain` on the same files: logits and maps relative to their
largest value.

    python benchmarks/web.py zoo:cifar10-aloe "photos/*.jpg" --int8
    python benchmarks/web.py vit-s photos --int8      (a ViT-S/16 student of random weights, for sizes and times)
"""

from __future__ import annotations

import argparse
import base64
import functools
import http.server
import shutil
import statistics
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch

import aloe
from aloe.apps.export.int8 import read_images
from aloe.apps.export.web.build import build_page
from aloe.apps.export.web.student import export_page
from aloe.data.sources import open_images
from aloe.models.configuration import BcosViTConfig
from aloe.models.modeling import BcosViTForImageClassification

MAPS = """async ([name, data, side]) => {
  const { open } = await import('./image.js'), { planes, square } = await import('./resize.js');
  const { Model } = await import('./model.js'), { readJson } = await import('./files.js');
  const manifest = await readJson('manifest.json');
  globalThis.models ??= {};
  globalThis.models[name] ??= await Model.load(manifest, manifest.graphs.find(g => g.name === name), 'wasm');
  const bytes = Uint8Array.from(atob(data), c => c.charCodeAt(0)), file = await open(new File([bytes], 'x'));
  const rgb = square(file.rows, file.width, file.height, manifest.preprocessing);
  const found = await globalThis.models[name].explain(planes(rgb, side));
  const text = array => btoa(Array.from(new Uint8Array(array.buffer), b => String.fromCharCode(b)).join(''));
  return [found.seconds, text(found.contributions), text(found.weights), text(found.logits), found.target];
}"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A static server that says nothing."""

    def log_message(self, *_: object) -> None:
        pass


def random_student() -> torch.nn.Module:
    """A ViT-S/16 student at 224 pixels with 1000 classes, whose weights nothing has trained."""
    torch.manual_seed(0)
    return BcosViTForImageClassification(
        BcosViTConfig(hidden_size=384, num_attention_heads=6, intermediate_size=1536, num_labels=1000)
    ).eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("student")
    parser.add_argument("images", help="folder, glob or archive")
    parser.add_argument("--count", type=int, default=8, help="images that are compared")
    parser.add_argument("--int8", action="store_true")
    parser.add_argument("--page", type=Path, help="a page that is there already")
    parser.add_argument("--runtime", type=Path)
    parser.add_argument("--chromium", default=shutil.which("chromium") or shutil.which("google-chrome"))
    args = parser.parse_args()
    folder = args.page or Path(tempfile.mkdtemp()) / "page"
    model = random_student() if args.student == "vit-s" else aloe.load(args.student)
    side = model.config.resolution
    if not folder.exists():
        options = {"int8": args.int8, "runtime": args.runtime}
        if args.student == "vit-s":
            images = read_images(args.images, side, 8) if args.int8 else None
            done = build_page(model, folder, title="ViT-S, random", images=images, **options)
        else:
            done = export_page(args.student, folder, images=args.images if args.int8 else None, **options)
        print("files", done.files, "\nloads", done.loads, "\ndifferences", done.differences, done.completeness)
        print("int8", done.int8 and done.int8.words())
    store = open_images(args.images)
    places = np.linspace(0, len(store) - 1, args.count).round().astype(int)
    images = [store.load(int(i)) for i in places]
    measure(folder, model, side, images, args.chromium)


def measure(folder: Path, model: torch.nn.Module, side: int, images: list, chromium: str) -> None:
    """Drive the page and print a line for each kind of weights."""
    from playwright.sync_api import sync_playwright

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-dev-shm-usage"])
        page = browser.new_page()
        page.set_default_timeout(600_000)
        url = f"http://127.0.0.1:{server.server_port}/"
        first = folder.parent / "first.png"
        images[0].save(first)
        for weights in [g["name"] for g in page.request.get(f"{url}manifest.json").json()["graphs"]]:
            start = time.perf_counter()
            page.goto(url)
            page.wait_for_selector("#status[data-ready]")
            ready = time.perf_counter() - start
            if page.get_attribute("#status", "data-ready") != weights:
                page.evaluate("document.querySelector('#facts').open = true")
                page.select_option("#precision select", weights)
                page.wait_for_selector(f"#status[data-ready={weights}]")
            start = time.perf_counter()
            page.set_input_files("#file", first)
            page.wait_for_selector("#sum[data-target]")
            shown = time.perf_counter() - start
            rows = [compare(page, model, side, image, weights, folder.parent / "image.png") for image in images]
            seconds, maps, colours, logits, same = zip(*rows, strict=True)
            print(
                f"{weights}: ready after {ready:.2f} s, first explanation {shown:.2f} s later, each"
                f" {statistics.median(seconds):.3f} s; from PyTorch: contributions {max(maps):.1e}, W(x) {max(colours):.1e},"
                f" logits {max(logits):.1e}; same answer {sum(same)} of {len(same)}"
            )
        browser.close()
    server.shutdown()


def compare(page, model, side: int, image, weights: str, path: Path) -> tuple[float, float, float, float, bool]:
    """Seconds, and the differences of contributions, W(x) and logits relative to the largest value of each."""
    image.save(path)
    data = base64.b64encode(path.read_bytes()).decode()
    seconds, *arrays, target = page.evaluate(MAPS, [weights, data, side])
    parts, weight, logits = (np.frombuffer(base64.b64decode(a), np.float32) for a in arrays)
    expected = aloe.explain(model, image, target)

    def far(found: np.ndarray, tensor: torch.Tensor) -> float:
        values = tensor.flatten().numpy()
        return float(np.abs(found - values).max() / np.abs(values).max())

    same = int(expected.logits.argmax()) == target
    return (
        seconds,
        far(parts, expected.contributions),
        far(weight, expected.weights),
        far(logits, expected.logits),
        same,
    )


if __name__ == "__main__":
    main()
