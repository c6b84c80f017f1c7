"""The SLURM example with stand-ins for `srun` and `scontrol`: ranks, SIGTERM, requeue, resume."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aloe.train.checkpoints import checkpoints
from aloe.train.progress import read_log
from conftest import build_teacher
from pictures import write_pictures
from places import ROOT

SCRIPT = ROOT / "examples" / "slurm" / "align.sbatch"
SWEEP = ROOT / "examples" / "slurm" / "sweep.sbatch"

# Starts the tasks, hands on a SIGTERM as slurmd would, and returns the highest exit code as srun does.
SRUN = """#!/bin/bash
shift
for ((i = 0; i < SLURM_NTASKS; i++)); do
    SLURM_PROCID=$i SLURM_LOCALID=$i "$@" & pids+=($!)
done
echo "${pids[@]}" > "$RECORDS/pids"
code=0
for pid in "${pids[@]}"; do
    wait "$pid"; found=$?; ((found > code)) && code=$found
done
exit $code
"""
SCONTROL = """#!/bin/bash
if [ "$1" = show ]; then echo localhost; else echo "$@" >> "$RECORDS/requeued"; fi
"""


def stand_in(folder: Path, **programs: str) -> dict[str, str]:
    folder.mkdir()
    for name, text in programs.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    slurm = {"SLURM_JOB_ID": "77", "SLURM_NTASKS": "2", "SLURM_JOB_NODELIST": "localhost"}
    return {**os.environ, **slurm, "PATH": path, "RECORDS": str(folder), "ALOE_DEVICE": "cpu"}


@pytest.mark.parametrize(("code", "requeued"), [(0, False), (1, False), (2, False), (143, True)])
def test_only_a_terminated_run_goes_back_into_the_queue(tmp_path, code, requeued):
    aloe = f'#!/bin/bash\necho "$RANK of $WORLD_SIZE, $LOCAL_RANK at $MASTER_ADDR:$MASTER_PORT: $@"\nexit {code}\n'
    environment = stand_in(tmp_path / "bin", srun=SRUN, scontrol=SCONTROL, aloe=aloe)
    command = ["bash", str(SCRIPT), "a teacher", "wds:{0..9}.tar", "out", "--steps", "5"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code
    words = "align a teacher wds:{0..9}.tar --output-dir out --device cpu --json --steps 5"
    assert sorted(done.stdout.splitlines()) == [f"{k} of 2, {k} at localhost:20077: {words}" for k in (0, 1)]
    record = tmp_path / "bin" / "requeued"
    assert record.is_file() == requeued
    assert not requeued or record.read_text() == "requeue 77\n"


@pytest.mark.parametrize(("code", "requeued"), [(0, False), (1, False), (143, True)])
def test_a_task_of_a_sweep_makes_its_cell_and_goes_back_into_the_queue_when_terminated(tmp_path, code, requeued):
    aloe = f'#!/bin/bash\necho "$OMP_NUM_THREADS: $@"\nexit {code}\n'
    environment = stand_in(tmp_path / "bin", srun='#!/bin/bash\nshift\n"$@"\n', scontrol=SCONTROL, aloe=aloe)
    environment |= {"SLURM_ARRAY_JOB_ID": "70", "SLURM_ARRAY_TASK_ID": "3", "SLURM_CPUS_PER_TASK": "4"}
    environment.pop("OMP_NUM_THREADS", None)
    command = ["bash", str(SWEEP), "a teacher", "images", "out", "--seeds", "0,1,2"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code
    words = "sweep a teacher images --output-dir out --cell 3 --device cpu --json --seeds 0,1,2"
    assert done.stdout == f"4: {words}\n"
    record = tmp_path / "bin" / "requeued"
    assert record.is_file() == requeued
    assert not requeued or record.read_text() == "requeue 70_3\n"


@pytest.mark.slow
def test_a_run_of_two_processes_is_terminated_requeued_and_resumed(tmp_path):
    aloe = f'#!/bin/bash\nexec {sys.executable} -m aloe "$@"\n'
    environment = stand_in(tmp_path / "bin", srun=SRUN, scontrol=SCONTROL, aloe=aloe)
    build_teacher("vit").model.save_pretrained(tmp_path / "teacher")
    images, run = write_pictures(tmp_path / "images"), tmp_path / "run"
    settings = ("batch_size=2", "workers=0", "holdout=0", "log_every=1", "save_every=100000", "steps=60")
    words = [str(tmp_path / "teacher"), str(images), str(run), *(w for s in settings for w in ("--set", s))]
    environment["OMP_NUM_THREADS"] = "1"
    job = subprocess.Popen(["bash", str(SCRIPT), *words], env=environment, stderr=subprocess.PIPE, text=True)
    while not read_log(run) and job.poll() is None:
        time.sleep(0.05)
    pids = (tmp_path / "bin" / "pids").read_text().split()
    subprocess.run(["kill", "-TERM", *pids], check=True)
    _, errors = job.communicate()
    assert job.returncode == 143, errors[-1500:]
    (kept,) = checkpoints(run)
    assert (tmp_path / "bin" / "requeued").read_text() == "requeue 77\n"
    again = subprocess.run(["bash", str(SCRIPT), *words], env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr[-1500:]
    assert (run / "model.safetensors").is_file()
    steps = [row["step"] for row in read_log(run) if "loss" in row]
    assert steps == list(range(1, 61))
    assert 0 < int(kept.name.split("-")[1]) < 60
