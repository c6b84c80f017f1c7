"""What several processes share: who does what, what all of them know, and how a difference is said."""

from __future__ import annotations

import pytest

from aloe.core import processes
from aloe.core.errors import UserError
from several import run_in


def test_one_process_does_everything_and_nothing_is_joined():
    assert (processes.rank(), processes.count(), processes.is_first()) == (0, 1, True)
    assert processes.dealt("abcde") == list("abcde")
    assert list(processes.shared(str.upper, "abc")) == ["A", "B", "C"]
    assert processes.gathered(3) == [3]
    assert processes.of_first(lambda: 7) == processes.after_first(lambda: 7) == 7
    processes.check_same({"data": "1"})
    with pytest.raises(UserError, match="as it is"):
        processes.of_first(_mistaken)


def test_one_process_shares_as_it_goes():
    made: list[int] = []
    for _ in processes.shared(made.append, range(5)):
        break
    assert made == [0]


def test_every_process_knows_what_each_has_made():
    def job():
        assert processes.count() == 3
        made: list[int] = []
        several = [
            list(processes.shared(lambda i: made.append(i) or 10 * i, range(count), rounds=rounds))
            for count in (7, 3, 2, 0)
            for rounds in (False, True)
        ]
        first = processes.of_first(lambda: f"rank {processes.rank()}")
        try:
            processes.of_first(_mistaken)
        except processes.OnEveryProcess as error:
            mistake = str(error)
        processes.check_same({"data": "same"})
        try:
            processes.check_same({"data": "same" if processes.rank() < 2 else "other"})
        except UserError as error:
            differs = str(error)
        order = processes.after_first(lambda: processes.rank())
        return several, made, first, mistake, differs, order

    found = run_in(3, job)
    for rank, (several, made, first, mistake, differs, order) in enumerate(found):
        assert several == [[10 * i for i in range(count)] for count in (7, 3, 2, 0) for _ in range(2)]
        assert made == 2 * list(range(7))[rank::3] + 2 * list(range(3))[rank::3] + 2 * list(range(2))[rank::3]
        assert (first, mistake, order) == ("rank 0", "It is wrong as it is.", rank)
        assert differs == "Process 2 reads another data than process 0: give all of them the same files."


def _mistaken():
    raise UserError("It is wrong as it is.")
