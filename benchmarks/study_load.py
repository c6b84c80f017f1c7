"""Many participants at once against the real study server, and what becomes of their answers when it is killed.

python benchmarks/study_load.py                 # 200 participants, 100 answers a second, a minute
python benchmarks/study_load.py --kill          # the same; kill -9 in the middle, restart, answers checked one by one

Each participant keeps one connection, loads the trial's page and the pictures it has not seen, and answers on a schedule. An
answer's time runs from the form sent to the redirect received (the answer is durable then); the next page is timed by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import torch

from aloe.apps.study.answers import stored_answers
from aloe.apps.study.fit import fit
from aloe.apps.study.pictures import image_png, map_png
from aloe.apps.study.settings import RANDOM, StudySettings
from aloe.apps.study.simulate import Preferences
from aloe.apps.study.store import Material, create_study, hashed
from aloe.apps.study.tables import PAPER

SCORES = {method: score for method, (score, _) in PAPER.items()}
HOST = "127.0.0.1"


class Client:
    """HTTP over one connection that is opened anew when the server has gone."""

    def __init__(self, port: int) -> None:
        self.port, self.reader, self.writer = port, None, None
        self.cookies: dict[str, str] = {}

    async def ask(self, method: str, path: str, form: dict | None = None) -> tuple[int, dict[str, str], bytes]:
        body = urlencode(form).encode() if form else b""
        cookies = "; ".join(f"{k}={v}" for k, v in self.cookies.items())
        lines = [f"{method} {path} HTTP/1.1", f"Host: {HOST}", f"Cookie: {cookies}", f"Content-Length: {len(body)}"]
        lines += ["Content-Type: application/x-www-form-urlencoded"] if form else []
        head = "\r\n".join([*lines, "", ""]).encode()
        while True:
            try:
                if self.writer is None:
                    self.reader, self.writer = await asyncio.open_connection(HOST, self.port)
                self.writer.write(head + body)
                return await self._answer()
            except (OSError, asyncio.IncompleteReadError):  # killed: ask again until somebody answers
                if self.writer is not None:
                    self.writer.close()
                self.writer = None
                await asyncio.sleep(0.1)

    async def _answer(self) -> tuple[int, dict[str, str], bytes]:
        first, *rest = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {}
        for name, _, value in (line.partition(": ") for line in rest if line):
            headers[name.lower()] = value
            if name.lower() == "set-cookie":
                self.cookies.update([value.split(";")[0].split("=", 1)])
        return int(first.split()[1]), headers, await self.reader.readexactly(int(headers.get("content-length", 0)))


async def participate(number: int, args: argparse.Namespace, port: int, methods: dict, log: dict) -> None:
    """Start a session, wait for everybody, then answer at the participant's own moments."""
    client, person = Client(port), Preferences(SCORES).person(np.random.default_rng([args.seed, number]))
    await asyncio.sleep(number * 0.02)
    _, _, page = await client.ask("GET", "/")
    _, headers, _ = await client.ask("POST", "/start", {**fields(page), "agree": "yes"})
    path, seen = headers["location"], set()
    _, _, page = await client.ask("GET", f"{path}/trial")
    log["ready"].append(number)
    await log["start"].wait()
    for turn in range(number, round(args.rate * args.seconds), args.participants):
        due = log["begin"] + turn / args.rate
        pictures = re.findall(r"/picture/(\w+)", page.decode())
        for identity in set(pictures) - seen:
            began = time.perf_counter()
            await client.ask("GET", f"/picture/{identity}")
            log["picture"].append(time.perf_counter() - began)
        seen.update(pictures)
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        log["late"].append(time.perf_counter() - due)
        choice = person.choose(*(methods[identity] for identity in pictures[1:]))
        form = fields(page)
        began = time.perf_counter()
        status, _, _ = await client.ask("POST", f"{path}/answer", {**form, "choice": choice})
        answered = time.perf_counter()
        if status != 303:
            log["refused"].append(status)
            return
        log["acknowledged"][hashed(path.removeprefix("/s/")), int(form["position"])] = choice
        _, _, page = await client.ask("GET", f"{path}/trial")
        log["page"].append(time.perf_counter() - answered)
        log["answer"].append(answered - began)
        if b"Thank you" in page:
            return


def fields(page: bytes) -> dict[str, str]:
    return dict(re.findall(r'type="hidden" name="(\w+)" value="(\w+)"', page.decode()))


def serve(db: Path, port: int) -> tuple[subprocess.Popen, int]:
    command = [sys.executable, "-m", "aloe", "study", "serve", "--db", str(db), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    return process, int(re.search(r":(\d+)/ ", process.stdout.readline())[1])


async def run(db: Path, args: argparse.Namespace) -> dict:
    with closing(sqlite3.connect(db)) as connection:
        methods = dict(connection.execute("SELECT picture, method FROM maps").fetchall())
    names = ("answer", "page", "picture", "late", "refused", "ready")
    log = {name: [] for name in names} | {"acknowledged": {}, "start": asyncio.Event(), "begin": 0.0}
    process, port = serve(db, 0)
    try:
        everybody = [asyncio.create_task(participate(n, args, port, methods, log)) for n in range(args.participants)]
        while len(log["ready"]) < args.participants:
            await asyncio.sleep(0.1)
        log["begin"] = time.perf_counter()
        log["start"].set()
        if args.kill:
            await asyncio.sleep(args.seconds / 2)
            process.send_signal(signal.SIGKILL)
            process.wait()
            log["acknowledged before the kill"] = len(log["acknowledged"])
            process, _ = await asyncio.to_thread(serve, db, port)
        await asyncio.gather(*everybody)
        log["took"] = time.perf_counter() - log["begin"]
    finally:
        process.kill()
        process.wait()
    return log


def check(db: Path, log: dict) -> dict:
    """Every acknowledged answer against what the file holds."""
    query = "SELECT token, position, choice FROM answers JOIN participants USING (participant)"
    with closing(sqlite3.connect(db)) as connection:
        rows = connection.execute(query).fetchall()
    stored = {(token, position): choice for token, position, choice in rows}
    return {
        "acknowledged": len(log["acknowledged"]),
        "lost": sum(key not in stored for key in log["acknowledged"]),
        "changed": sum(stored.get(key, choice) != choice for key, choice in log["acknowledged"].items()),
        "doubled": sum(n - 1 for n in Counter(row[:2] for row in rows).values()),
        "stored and not acknowledged": len(stored.keys() - log["acknowledged"].keys()),
        "refused": len(log["refused"]),
    }


def study(db: Path, images: int, ties: bool = False) -> None:
    """Twelve photographs' worth of smooth noise, at 224 pixels."""
    settings = StudySettings.of(methods=tuple(SCORES), ties=ties, places=100_000)
    rng = torch.Generator().manual_seed(0)

    def smooth(*shape: int) -> torch.Tensor:
        noise = torch.randn((1, *shape, 28, 28), generator=rng)
        return torch.nn.functional.interpolate(noise.reshape(1, -1, 28, 28), size=224, mode="bilinear")[0]

    material = [
        Material(
            f"{i}.jpg",
            "dog",
            image_png(smooth(3).sigmoid()),
            {method: map_png(smooth(1)[0]) for method in (*SCORES, RANDOM)},
        )
        for i in range(images)
    ]
    create_study(db, settings, material)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--participants", type=int, default=200)
    parser.add_argument("--rate", type=float, default=100, help="answers a second in all")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--kill", action="store_true", help="kill -9 of the server in the middle, then restart it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        db = Path(folder) / "study.sqlite"
        study(db, args.images)
        log = asyncio.run(run(db, args))
        result = check(db, log) | {"answers a second": len(log["answer"]) / log["took"]}
        for name in ("answer", "page", "picture", "late"):
            p50, p95, most = np.quantile(log[name], (0.5, 0.95, 1)) * 1e3
            result[f"{name}, ms"] = {"p50": round(p50, 1), "p95": round(p95, 1), "max": round(most, 1)}
        if args.kill:
            result["acknowledged before the kill"] = log["acknowledged before the kill"]
        found = fit(stored_answers(db), samples=200)
        inside = [low <= SCORES[m] <= high for m, low, high in zip(found.methods, found.low, found.high, strict=True)]
        result["scores inside their intervals"] = f"{sum(inside)} of {len(inside)}"
        result["load average"] = [round(x, 2) for x in os.getloadavg()]
        result["cores"] = len(os.sched_getaffinity(0))
    print(json.dumps(result, indent=None if args.json else 1))
    sys.exit(bool(result["lost"] or result["changed"] or result["doubled"] or result["refused"]))


if __name__ == "__main__":
    main()
