"""`aloe app`: starts out of the box without a network, and a mistake is one sentence."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys

import httpx
import pytest
from explorers import encoded, scene


@pytest.mark.slow
def test_it_starts_offline_without_arguments_and_listens_on_loopback(tmp_path):
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [sys.executable, "-m", "aloe", "app", "--port", "0", "--device", "cpu"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            lines = [process.stdout.readline() for _ in range(2)]
            assert lines[0].startswith("zoo:photos-aloe (aligned student): aligned to ")
            url = re.fullmatch(r"Open (http://127\.0\.0\.1:\d+) \(Ctrl-C ends it\)\n", lines[1])[1]
            assert httpx.get(url).status_code == 200
            assert httpx.get(url, headers={"Host": "evil.example"}).status_code == 421
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
    assert list(tmp_path.iterdir()) == []


MISTAKES = {
    "app ./missing": "missing",
    "app --images ./none": "does not exist",
    "app --images {}/broken.png": "None of the images could be read",
    "app --set legrad.depth=3": "has no option 'depth'",
    "app --set legrad=3": "method.option=value",
    "app --device abacus": "no device 'abacus'",
    "app --host 192.0.2.1": "Cannot listen on 192.0.2.1",
    "app --text-tower ./none": "none",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_is_one_sentence(aloe, tmp_path, words):
    (tmp_path / "broken.png").write_bytes(encoded(scene())[:50])
    arguments = words.format(tmp_path).split()
    code, _, error = aloe(*arguments, "--port", "0")
    assert code == 2
    assert MISTAKES[words] in error
    assert error.count("\n") == 1


def test_a_port_in_use_is_said_before_any_work(aloe):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, _, error = aloe("app", "./missing", "--port", taken.getsockname()[1])
    assert code == 2
    assert "Cannot listen" in error


def test_without_gradio_it_says_what_to_install(aloe, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "aloe.apps.explorer.page", raising=False)
    code, _, error = aloe("app", "--port", "0")
    assert code == 2
    assert 'pip install "aloe-vit[app]"' in error
