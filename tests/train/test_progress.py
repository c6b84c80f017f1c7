"""The log of a run and its progress bar."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from aloe.core.errors import UserError
from aloe.train.align.trainer import alignment_bar
from aloe.train.finetune.trainer import finetuning_bar
from aloe.train.progress import JsonlLog, Throughput, read_log

SPEED = {"images_per_second": 21.4, "data_wait": 0.25}


def state(step: int, history: tuple[int, ...] = ()) -> SimpleNamespace:
    return SimpleNamespace(
        is_world_process_zero=True, global_step=step, max_steps=9, log_history=[{"step": k} for k in history]
    )


def test_a_resumed_log_goes_on_after_its_checkpoint(tmp_path):
    log = JsonlLog(tmp_path)
    for step in (1, 2, 3):
        log.on_log(None, state(step), None, {"loss": step})
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # cut short
    assert [row["step"] for row in read_log(tmp_path)] == [1, 2, 3]
    JsonlLog(tmp_path).on_train_begin(None, state(2, (1, 2)), None)
    log.on_log(None, state(3), None, {"loss": 7})
    assert [row["loss"] for row in read_log(tmp_path)] == [1, 2, 7]
    JsonlLog(tmp_path).on_train_begin(None, state(0), None)
    assert read_log(tmp_path) == []


def test_rows_that_came_after_the_checkpoint_of_their_step_are_cut(tmp_path):
    log = JsonlLog(tmp_path)
    for step, name in ((1, "loss"), (2, "loss"), (2, "eval_loss"), (2, "train_runtime")):
        log.on_log(None, state(step), None, {name: 1.0})
    log.on_train_begin(None, state(2, (1, 2, 2)), None)
    assert [list(row)[-1] for row in read_log(tmp_path)] == ["loss", "loss", "eval_loss"]


@pytest.mark.parametrize(
    "line",
    [
        b"\x00\xff\xfe\x80",
        b"[1, 2]",
        b'{"loss": 1}',
        b'{"step": "2"}',
        b'{"step": null}',
        b'{"step": true}',
        b"7",
        b'"a"',
    ]
    + [b"[" * 100_000, b'{"step": -1}', b'{"step": 1e400}', b'{"step": 1'],
    ids=lambda line: line[:12].decode(errors="replace"),
)
@pytest.mark.parametrize("place", [0, 1, 3])
def test_a_damaged_line_is_left_out_and_said(tmp_path, capsys, line, place):
    good = [b'{"step": %d, "loss": %d}' % (k, k) for k in (1, 2, 3)]
    (tmp_path / "log.jsonl").write_bytes(b"\n".join([*good[:place], line, *good[place:]]) + b"\n")
    assert [row["loss"] for row in read_log(tmp_path)] == [1, 2, 3]
    JsonlLog(tmp_path).on_train_begin(None, state(3, (1, 2, 3)), None)
    assert "1 damaged line of" in " ".join(capsys.readouterr().err.split())
    assert (tmp_path / "log.jsonl").read_bytes() == b"\n".join(good) + b"\n"


def test_no_log_is_no_rows(tmp_path):
    assert read_log(tmp_path) == []


def test_throughput_is_added_to_training_logs_only():
    meter = Throughput(images_per_step=8)
    meter.on_train_begin()
    for _ in range(2):
        meter.on_step_begin()
        meter.on_step_end()
    evaluation, training = {"eval_loss": 1.0}, {"loss": 1.0}
    meter.on_log(None, None, None, evaluation)
    meter.on_log(None, None, None, training)
    assert set(evaluation) == {"eval_loss"}
    assert training["images_per_second"] > 0
    assert 0 <= training["data_wait"] <= 1


@pytest.mark.parametrize(
    ("bar", "logs", "line"),
    [
        (
            alignment_bar,
            [{"loss": 3.0, "loss_after_block_1": 1.0, "loss_pooled": 2.0, **SPEED}],
            "21 img/s, data wait 25%  loss 1:1.000 pooled:2.000",
        ),
        (
            alignment_bar,
            [{"eval_cosine_pooled": 0.5}, {"loss": 2.0, "loss_pooled": 2.0, **SPEED}],
            "21 img/s, data wait 25%  loss pooled:2.000  cosine pooled:0.500",
        ),
        (
            finetuning_bar,
            [{"loss": 0.5, "accuracy": 0.25, **SPEED}],
            "21 img/s, data wait 25%  loss 0.5000 accuracy 25.0%",
        ),
        (
            finetuning_bar,
            [{"eval_loss": 0.75, "eval_accuracy": 0.125}, {"loss": 0.5, "accuracy": 0.25, **SPEED}],
            "21 img/s, data wait 25%  loss 0.5000 accuracy 25.0%  held out: loss 0.7500 accuracy 12.5%",
        ),
    ],
)
def test_what_the_bar_says(capsys, bar, logs, line):
    bar = bar()
    bar.on_train_begin(None, state(0), None)
    for row in logs:
        bar.on_log(None, state(1), None, row)
    bar.on_step_end(None, state(1), None)
    bar.close()
    assert bar.bar.status == line
    assert (bar.bar.done, bar.bar.total) == (1, 9)
    bar.close()


def test_another_rank_shows_no_bar():
    bar = finetuning_bar()
    bar.on_train_begin(None, SimpleNamespace(is_world_process_zero=False), None)
    bar.on_log(None, state(1), None, {"loss": 1.0, "accuracy": 1.0})
    assert bar.bar is None


def test_a_row_that_comes_again_counts_once_and_a_contradicting_one_is_refused(tmp_path, capsys):
    rows = ['{"step": 1, "loss": 2.0, "time": 5.0}', '{"step": 1, "eval_loss": 3.0}', '{"step": 1, "train_loss": 1.0}']
    file = tmp_path / "log.jsonl"
    file.write_text("\n".join([*rows, rows[0], '{"step": 2, "loss": 1.0}']) + "\n")
    assert [row["step"] for row in read_log(tmp_path)] == [1, 1, 1, 2]
    JsonlLog(tmp_path).on_train_begin(None, state(3), None)
    assert "1 row came more than once and counted once" in " ".join(capsys.readouterr().err.split())
    file.write_text("\n".join([*rows, '{"step": 1, "loss": 2.5}']) + "\n")
    words = (
        r"^Line 1 of .*log.jsonl and line 4 of .*log.jsonl contradict each other on step 1: loss 2.0 and 2.5; leave out"
    )
    with pytest.raises(UserError, match=words):
        read_log(tmp_path)
