"""Seconds from a file's bytes to the first explanation in the explorer, and from a click to the picture in a browser.

python benchmarks/app_latency.py STUDENT --images PHOTOS [--threads 1] [--no-page]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import threading
import time
from pathlib import Path

import torch

from aloe.apps.explorer.explorer import Explorer, load_models
from aloe.apps.explorer.payload import panel_payload, view_payload
from aloe.apps.explorer.view import View
from aloe.data.decode import is_image_name

DRAWN = (
    "name => document.querySelector('.aloe-panel')?.innerText.includes(name)"
    " && [...document.querySelectorAll('.aloe-map')].some(map => map.complete)"
)


def in_the_explorer(explorer: Explorer, files: list[Path]) -> tuple[list[float], list[float]]:
    """Decoding, cropping, the model's forward and backward pass, pictures and their JSON: seconds, and those of processor."""
    seconds, worked, titles = [], [], list(explorer.entries)
    for file in files:
        data = file.read_bytes()
        start, working = time.perf_counter(), time.process_time()
        view = View(explorer, explorer.open(data, file.name))
        panel = next(iter(view.panels(titles, ["inherent"])))
        json.dumps({**view_payload(view, titles), "panels": [panel_payload(panel, explorer)]})
        seconds.append(time.perf_counter() - start)
        worked.append(time.process_time() - working)
    return seconds, worked


def in_the_page(explorer: Explorer, folder: Path, files: list[Path]) -> list[float]:
    """From the click on an image to its explanation in Chromium, which runs on the same processor."""
    import uvicorn
    from playwright.sync_api import sync_playwright

    from aloe.apps.explorer.page import build_app

    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(build_app(explorer, folder, limit=len(files)), log_level="error"))
    serving = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    serving.start()
    while not server.started:
        time.sleep(0.05)
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next((found for name in names if (found := shutil.which(name))), None)
    seconds = []
    with sync_playwright() as playwright:
        root = hasattr(os, "geteuid") and os.geteuid() == 0
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"] * root)
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{listening.getsockname()[1]}")
        page.wait_for_function(DRAWN, arg=files[0].name)
        for file in files[1:]:
            page.wait_for_function("!document.querySelector('.aloe-panels').dataset.busy")
            start = time.perf_counter()
            page.get_by_role("button", name=file.name).click()
            page.wait_for_function(DRAWN, arg=file.name)
            seconds.append(time.perf_counter() - start)
        browser.close()
    server.should_exit = True
    serving.join()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--images", type=Path, required=True, help="a folder of photographs")
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--no-page", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    files = sorted(path for path in args.images.iterdir() if is_image_name(path.name))[: args.count]
    start = time.perf_counter()
    models, towers = load_models(args.models)
    explorer = Explorer(models, towers=towers)
    explorer.warm_up()
    print(f"{args.threads} threads, loaded {', '.join(models)} in {time.perf_counter() - start:.1f} s")
    seconds, worked = in_the_explorer(explorer, files)
    found = {"explorer": seconds, "explorer, processor": worked}
    if not args.no_page:
        found["page"] = in_the_page(explorer, args.images, files)
    for name, seconds in found.items():
        print(
            f"{name:19}  first {seconds[0]:.2f} s  median {statistics.median(seconds):.2f} s  "
            f"fastest {min(seconds):.2f} s  slowest {max(seconds):.2f} s  of {len(seconds)}"
        )


if __name__ == "__main__":
    main()
