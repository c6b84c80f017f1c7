"""The design: balanced pairs and sides, images in rounds, checks, repeats, and the same session for the same number."""

from __future__ import annotations

from collections import Counter

import pytest

from aloe.apps.study.settings import RANDOM, StudySettings
from aloe.apps.study.trials import IDENTICAL, MAIN, NOISE, PRACTICE, REPEAT, session
from aloe.core.errors import UserError

SIX = ("inherent", "attnlrp", "intgrad", "legrad", "chefercam", "lime")
STUDY = StudySettings.of(methods=SIX, ties=True)


def main_of(settings, images, number):
    return [t for t in session(settings, images, number) if t.kind == MAIN]


def test_a_session_has_what_the_settings_say():
    planned = session(STUDY, 20, 3)
    assert Counter(t.kind for t in planned) == {PRACTICE: 3, MAIN: 50, IDENTICAL: 2, NOISE: 4, REPEAT: 4}
    assert len(planned) == STUDY.shown == 63
    assert [t.kind for t in planned[:3]] == [PRACTICE] * 3


def test_the_same_number_gives_the_same_session_and_another_one_another():
    assert session(STUDY, 20, 5) == session(STUDY, 20, 5) != session(STUDY, 20, 6)
    assert session(STUDY, 20, 5) != session(StudySettings.of(methods=SIX, ties=True, seed=1), 20, 5)


@pytest.mark.parametrize("trials", [50, 7, 15, 44])
def test_pairs_come_equally_often_for_everyone_and_over_all(trials):
    settings, over_all = StudySettings.of(methods=SIX, trials=trials, repeats=0), Counter()
    for number in range(11):
        pairs = Counter(frozenset((t.left, t.right)) for t in main_of(settings, 20, number))
        counts = [pairs[frozenset(p)] for p in settings.pairs]
        assert max(counts) - min(counts) <= 1
        over_all += pairs
    counts = [over_all[frozenset(p)] for p in settings.pairs]
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("methods", [SIX, SIX[:5], SIX[:2]])
def test_every_method_stands_left_as_often_as_right(methods):
    settings, lean, pairs = StudySettings.of(methods=methods), Counter(), Counter()
    for number in range(20):
        own = Counter()
        for t in main_of(settings, 20, number):
            own[t.left] += 1
            own[t.right] -= 1
            pairs[t.left, t.right] += 1
        assert max(map(abs, own.values())) <= 6
        lean.update(own)
    assert max(abs(n) for n in lean.values()) <= 12  # of 1000 / 3 and more appearances
    for a, b in settings.pairs:
        assert abs(pairs[a, b] - pairs[b, a]) <= 3


def test_images_come_in_rounds_and_never_twice_with_the_same_pair():
    for number in range(10):
        main = main_of(STUDY, 12, number)
        counts = Counter(t.image for t in main)
        assert set(counts.values()) <= {4, 5}
        assert len({(t.image, frozenset((t.left, t.right))) for t in main}) == len(main)


def test_a_repeat_is_the_same_trial_mirrored_and_much_later():
    for number in range(20):
        planned = session(STUDY, 12, number)
        for at, t in enumerate(planned):
            assert (t.repeats is not None) == (t.kind == REPEAT)
            if t.kind == REPEAT:
                first = planned[t.repeats]
                assert first.kind == MAIN
                assert (first.image, first.left, first.right) == (t.image, t.right, t.left)
                assert at - t.repeats > 10


def test_checks_show_a_map_beside_itself_and_beside_noise_on_both_sides():
    planned = [t for number in range(10) for t in session(STUDY, 12, number)]
    assert all((t.left == t.right) == (t.kind == IDENTICAL) for t in planned)
    assert all((RANDOM in (t.left, t.right)) == (t.kind == NOISE) for t in planned)
    assert sum(t.left == RANDOM for t in planned) == sum(t.right == RANDOM for t in planned)


def test_what_cannot_be_is_said():
    with pytest.raises(UserError, match="at least two methods"):
        StudySettings.of(methods=("lime",))
    with pytest.raises(UserError, match="at least two methods"):
        StudySettings.of(methods=("lime", "lime"))
    with pytest.raises(UserError, match="first half of 4 trials"):
        StudySettings.of(methods=SIX, trials=4)
    with pytest.raises(UserError, match="trails"):
        StudySettings.of(methods=SIX, trails=4)
