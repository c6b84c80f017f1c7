"""Bradley-Terry: the paper's Table B7, maximum likelihood by another route, known preferences, exclusions, agreement."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from aloe.apps.study.agreement import agreement, krippendorff
from aloe.apps.study.analysis import analyse, write_analysis
from aloe.apps.study.exclusions import Rules, judge, keep, report
from aloe.apps.study.fit import bradley_terry, fit, win_matrices, win_rate
from aloe.apps.study.power import clustered_covariance, participants_needed, power
from aloe.apps.study.settings import StudySettings
from aloe.apps.study.simulate import Preferences, simulate
from aloe.apps.study.tables import PAPER
from aloe.core.errors import UserError

SCORES = {method: score for method, (score, _) in PAPER.items()}
STUDY = StudySettings.of(methods=tuple(SCORES), repeats=4)
TIED = StudySettings.of(methods=tuple(SCORES), ties=True)


@pytest.fixture(scope="module")
def answers():
    return simulate(STUDY, 12, 60, Preferences(SCORES))


def test_the_paper_s_win_rates_follow_from_its_scores():
    for score, printed in list(PAPER.values())[1:]:
        ends = win_rate(PAPER["inherent"][0] - score + np.array([-0.01, 0.01]))  # two scores, each rounded to 0.01
        assert 100 * ends[0] - 0.05 <= printed <= 100 * ends[1] + 0.05
        assert abs(100 * ends.mean() - printed) < 0.16
    assert abs(sum(score for score, _ in PAPER.values())) < 0.03  # its scores have mean 0, like ours


def test_scores_maximise_the_likelihood(answers):
    """The paper: 'similar to logistic regression on the one-hot encoded study data'."""
    main = [a for a in answers if a.kind == "main"]
    methods = sorted(SCORES)
    x = np.zeros((len(main), len(methods)))
    for row, a in zip(x, main, strict=True):
        row[methods.index(a.left)], row[methods.index(a.right)] = 1, -1
    y = [a.choice == "left" for a in main]
    other = LogisticRegression(C=1e6, fit_intercept=False, tol=1e-8).fit(x, y).coef_[0]
    wins = win_matrices(main, methods).sum(0)
    assert wins.sum() == len(main)
    assert np.allclose(bradley_terry(wins), other - other.mean(), atol=2e-3)


def test_simulated_preferences_are_recovered_within_the_intervals(answers):
    found = fit(answers, samples=200)
    assert found.participants == 60
    assert found.answers == 3000
    true = np.array([SCORES[m] for m in found.methods])
    assert np.all((found.low <= true) & (true <= found.high))
    assert np.all(found.high - found.low < 0.5)
    assert found.methods[found.order[0]] == "inherent"
    assert np.allclose(found.rates + found.rates.T, 1)
    assert np.allclose(found.observed[0, 1] + found.observed[1, 0], 1)


def test_intervals_cover_the_truth_as_often_as_they_say():
    small, hits, total = StudySettings.of(methods=("a", "b", "c"), trials=12), 0, 0
    for seed in range(20):
        truth = {"a": 0.5, "b": 0.0, "c": -0.5}
        found = fit(simulate(small, 6, 25, Preferences(truth), seed), samples=40, seed=seed)
        hits += int(sum((found.low <= list(truth.values())) & (list(truth.values()) <= found.high)))
        total += 3
    assert 0.85 <= hits / total <= 1


def test_only_trials_that_count_enter_the_fit(answers):
    others = [replace(a, choice="left") for a in answers if a.kind != "main"]
    main = [a for a in answers if a.kind == "main"]
    assert np.array_equal(fit(main + others, samples=2).wins, fit(main, samples=2).wins)


def test_ties_are_half_a_win_or_left_out():
    answers = simulate(TIED, 12, 30, Preferences(SCORES, tie=0.6))
    half, drop = fit(answers, samples=5), fit(answers, ties="drop", samples=5)
    assert half.ties == drop.ties > 100
    assert half.wins.sum() == half.answers == drop.wins.sum() + drop.ties
    assert np.ptp(half.scores) < np.ptp(drop.scores)


def test_a_method_that_always_wins_has_a_finite_score_and_a_note():
    pair = StudySettings.of(methods=("a", "b", "c"), trials=12)
    found = fit(simulate(pair, 6, 4, Preferences({"a": 60.0, "b": 0.1, "c": 0.0})), samples=5)
    assert np.isfinite(found.scores).all()
    assert "no bound" in found.notes[0]


def test_methods_that_were_never_compared_are_said(answers):
    split = [
        a for a in answers if {a.left, a.right} in ({"inherent", "lime"}, {"legrad", "attnlrp"}) and a.kind == "main"
    ]
    with pytest.raises(UserError, match="never compared"):
        fit(split)
    with pytest.raises(UserError, match="no answers to fit"):
        fit([a for a in answers if a.kind == "repeat"])


def test_rules_leave_out_whom_they_should_and_say_so():
    careful = simulate(STUDY, 12, 20, Preferences(SCORES))
    judged = judge(careful, Rules())
    assert sum(bool(each.broken) for each in judged) <= 1
    strange = {
        "finished": [a for a in careful if a.participant == "1"][:-1],
        "seconds": [replace(a, seconds=0.3) for a in careful if a.participant == "2"],
        "one_side": [replace(a, choice="right") for a in careful if a.participant == "3"],
        "noise": [
            replace(a, choice="left" if a.left == "random" else "right") if a.kind == "random" else a
            for a in careful
            if a.participant == "4"
        ],
    }
    for rule, theirs in strange.items():
        (found,) = judge(theirs, Rules())
        assert rule in found.broken
        assert keep(theirs, [found]) == []
    mixed = [a for theirs in strange.values() for a in theirs]
    lines = report(judge(mixed, Rules()), Rules())
    assert lines[0] == "0 of 4 participants are counted."
    assert len(lines) == 5
    off = Rules.of(finished=False, noise=1, seconds=0, one_side=1)
    assert not [each for each in judge(mixed, off) if each.broken]
    assert len(report(judge(mixed, off), off)) == 1
    with pytest.raises(UserError, match="leave nobody"):
        analyse(mixed, Rules())


def test_changed_repeats_and_identical_pairs_are_measured():
    answers = simulate(TIED, 12, 3, Preferences({m: 0.0 for m in SCORES}, tie=50))
    for each in judge(answers, Rules()):
        assert (each.inconsistent, each.identical, each.noise) == (0, 0, 1)
    flipped = [replace(a, choice="left") if a.kind in ("repeat", "identical") else a for a in answers]
    for each in judge(flipped, Rules(inconsistent=0.5, identical=0.5)):
        assert (each.inconsistent, each.identical) == (1, 1)
        assert {"inconsistent", "identical"} <= set(each.broken)


def test_krippendorff_s_own_example():
    """Krippendorff (2011), 'Computing Krippendorff's Alpha-Reliability', C: nominal data, four observers, some missing."""
    table = [
        [1, 1, None, 1], [2, 2, 3, 2], [3, 3, 3, 3], [3, 3, 3, 3], [2, 2, 2, 2], [1, 2, 3, 4], [4, 4, 4, 4], [1, 1, 2, 1],
        [2, 2, 2, 2], [None, 5, 5, 5], [None, None, 1, 1], [None, None, 3, None],
    ]  # fmt: skip
    assert krippendorff([Counter(str(v) for v in unit if v) for unit in table]) == pytest.approx(0.743, abs=5e-4)


def test_agreement_is_0_by_chance_1_for_all_and_does_not_depend_on_names(answers):
    alike = agreement(simulate(STUDY, 6, 20, Preferences({m: 99.0 * s for m, s in SCORES.items()})))
    assert alike.same > 0.95
    assert alike.alpha > 0.9
    chance = agreement(simulate(STUDY, 6, 40, Preferences({m: 0.0 for m in SCORES})))
    assert abs(chance.alpha) < 0.05
    assert abs(chance.same - 0.5) < 0.03
    other = {m: chr(ord("z") - i) for i, m in enumerate(sorted(SCORES))}
    renamed = [replace(a, left=other.get(a.left, a.left), right=other.get(a.right, a.right)) for a in answers]
    assert agreement(renamed).alpha == pytest.approx(agreement(answers).alpha)
    alone = agreement([a for a in answers if a.participant == "1"])
    assert (alone.same, alone.alpha, alone.comparisons) == (None, None, 0)


def test_clustered_errors_are_those_of_the_bootstrap():
    answers = simulate(STUDY, 12, 80, Preferences(SCORES, spread=0.8))
    found = fit(answers, samples=300)
    each = win_matrices([a for a in answers if a.kind == "main"], found.methods)
    errors = np.sqrt(np.diag(clustered_covariance(each, found.scores)))
    assert np.allclose(errors, (found.high - found.low) / (2 * 1.96), rtol=0.25)


def test_power_grows_and_without_a_difference_is_the_test_s_level():
    few, many = (power(0.5, n, 30, simulations=60).power for n in (8, 60))
    assert few < many
    assert many > 0.9
    assert power(1e-9, 40, 30, simulations=200).power < 0.06  # one side of 5 %
    needed = participants_needed(0.6, 30, simulations=60)
    assert needed.power >= 0.8
    assert power(0.6, max(2, needed.participants // 3), 30, simulations=60).power < 0.7
    assert participants_needed(0.001, 30, simulations=5) is None
    with pytest.raises(UserError, match="difference other than 0"):
        participants_needed(0.0, 30)


def test_an_analysis_is_written_whole(answers, tmp_path):
    found = analyse(answers, Rules(), samples=10)
    files = write_analysis(found, tmp_path / "out")
    assert sorted(files) == sorted(p.name for p in (tmp_path / "out").iterdir())
    text = (tmp_path / "out" / "tables.md").read_text()
    assert "the paper: DINOv3 ViT-B/16" in text
    assert "63.5" in text
    assert "participants are counted" in text
    assert "Krippendorff" in text
    saved = json.loads((tmp_path / "out" / "fit.json").read_text())
    assert saved["scores"] == found.fit.scores.tolist()
    assert (tmp_path / "out" / "scores.png").read_bytes().startswith(b"\x89PNG")
    without = write_analysis(found, tmp_path / "other", with_paper=False)
    assert without == files
    assert "the paper" not in (tmp_path / "other" / "tables.md").read_text()
