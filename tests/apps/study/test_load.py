"""The load benchmark in small, against the real server: nothing lost or doubled, also when the server is killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from places import ROOT

pytest.importorskip("fastapi", reason="the extra `study` is not installed")


@pytest.mark.parametrize("more", [(), ("--kill",)])
def test_every_acknowledged_answer_is_there_once(more):
    words = ["--participants", "10", "--rate", "25", "--seconds", "2", "--images", "3", "--json", *more]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    script = str(ROOT / "benchmarks" / "study_load.py")
    done = subprocess.run(
        [sys.executable, script, *words], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["lost"], found["doubled"], found["changed"], found["refused"]) == (0, 0, 0, 0)
    assert found["acknowledged"] == 50  # 25 a second for 2 seconds
    if more:
        assert 0 < found["acknowledged before the kill"] < found["acknowledged"]
