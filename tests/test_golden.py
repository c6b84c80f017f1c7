"""What users have on disk, written by version 0.1.0 before its folders moved (`tests/golden`), is still read and found.

The files come from these commands, in a folder that holds `teacher` (a random ViT of two blocks) and `images`:

    aloe align teacher images -o run --steps 6 --batch-size 4 --resolution 16 --set save_every=3 --set holdout=3
        --set evaluate_every=3 --set log_every=2 --workers 0
    aloe finetune run images -o finetuned --steps 4 --batch-size 4 --set holdout=5 --lr 1e-3 --workers 0
    aloe evaluate knn,linear,cosine run --train images --test images -o results --cache cache --k 1,5 --reference teacher
    aloe evaluate classifier teacher finetuned --train images --test images -o results --cache cache
    aloe evaluate gridpg teacher --test images -o results --share 0.9 --grids 4 --methods inputxgrad,legrad
    aloe study build images --student finetuned --methods inherent,inputxgrad --trials 6 --practice 1 --set repeats=1
    aloe publish run me/golden --dry-run -o published --licence apache-2.0
    aloe export run -o forward.onnx       (of which the metadata are kept)
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import aloe as aloe_package
from aloe.evaluation.results import versions
from places import TESTS

ALIGN = ["--steps", "6", "--batch-size", "4", "--resolution", "16", "--workers", "0", "--device", "cpu"]
ALIGN += [word for k in ("save_every=3", "holdout=3", "evaluate_every=3", "log_every=2") for word in ("--set", k)]
# The files were made with one folder for both, which is refused today; a copy of it has the same content, so the same keys.
FROM_FOLDERS = ["--train", "copy-of-images", "--test", "images", "-o", "results", "--cache", "cache", "--device", "cpu"]


@pytest.fixture
def here(tmp_path, monkeypatch, aloe) -> Path:
    shutil.copytree(TESTS / "golden", tmp_path / "golden")
    shutil.copytree(TESTS / "golden" / "images", tmp_path / "golden" / "copy-of-images")
    monkeypatch.chdir(tmp_path / "golden")
    return tmp_path / "golden"


def same_versions() -> bool:
    rows = map(json.loads, (TESTS / "golden" / "results" / "results.jsonl").read_text().splitlines())
    return next(rows)["versions"] == versions()


def contents(folder: Path) -> dict[str, str]:
    files = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_a_finished_run_is_known(here, aloe):
    before = contents(here / "run")
    code, _, err = aloe("align", "teacher", "images", "-o", "run", *ALIGN)
    assert code == 0, err
    assert contents(here / "run") == before
    code, _, err = aloe("align", "teacher", "images", "-o", "run", *ALIGN, "--seed", "1")
    assert code == 2
    assert "seed was 0, now 1" in err


def test_a_checkpoint_is_resumed_to_the_same_weights(here, aloe):
    finished = load_file(here / "run" / "model.safetensors")
    (here / "run" / "model.safetensors").unlink()
    code, _, err = aloe("align", "teacher", "images", "-o", "run", *ALIGN)
    assert code == 0, err
    assert [p.name for p in (here / "run").glob("checkpoint-*")] != []
    for name, tensor in load_file(here / "run" / "model.safetensors").items():
        torch.testing.assert_close(tensor, finished[name], rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(not same_versions(), reason="a row's key holds the versions, and these are others")
@pytest.mark.parametrize(
    "words",
    [
        "knn,linear,cosine run --k 1,5 --reference teacher",
        "classifier teacher finetuned",
    ],
)
def test_rows_and_features_are_found_again(here, aloe, words):
    before = contents(here / "results") | contents(here / "cache")
    code, _, err = aloe("evaluate", *words.split(), *FROM_FOLDERS)
    assert code == 0, err
    assert contents(here / "results") | contents(here / "cache") == before


def test_features_are_found_where_rows_are_not(here, aloe):
    before = contents(here / "cache")
    shutil.rmtree(here / "results")
    code, _, err = aloe("evaluate", "knn", "run", *FROM_FOLDERS, "--k", "1")
    assert code == 0, err
    if same_versions():
        assert contents(here / "cache") == before
    else:
        assert before.items() <= contents(here / "cache").items()


def test_stored_grids_and_rows_make_a_report(here, aloe):
    from aloe.metrics.grids import GridList

    (path,) = (here / "results" / "grids").glob("*.json")
    grids = GridList.load(path, state=json.loads(path.read_text())["state"])
    assert (len(grids), grids.n) == (4, 2)
    code, _, err = aloe("report", "results", "-o", "report")
    assert code == 0, err
    page = (here / "report" / "index.html").read_text()
    assert "32.52" in page  # LeGrad's GridPG
    assert "96.15" in page  # the linear probe


def test_students_probes_and_published_folders_load(here):
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    run = aloe_package.explain(aloe_package.load("run"), images)
    published = aloe_package.explain(aloe_package.load("published"), images)
    torch.testing.assert_close(run.contributions, published.contributions)
    (probe,) = (here / "results" / "probes").iterdir()
    assert aloe_package.load(probe).config.num_labels == 5
    assert aloe_package.load("finetuned").config.num_labels == 5


def test_a_study_is_read(here):
    from aloe.apps.study.store import Store

    store = Store(here / "study.sqlite")
    assert store.images == 6
    assert store.settings.trials == 6


def test_exported_metadata_keep_their_names(here):
    known = json.loads((here / "onnx-metadata.json").read_text())
    from aloe.apps.export.run import _metadata

    model = aloe_package.load("run")
    present = _metadata(model, "forward", 16, "own", ("logits", "pooler_output", "last_hidden_state"), False)
    assert known.keys() == present.keys()
    assert {k: v for k, v in known.items() if k != "aloe.outputs"} == {
        k: v for k, v in present.items() if k != "aloe.outputs"
    }
