"""The teacher's statistics against a literal twin, what they standardise, and the centred cosine."""

from __future__ import annotations

import pytest
import torch

from aloe.models.convert import bcosify
from aloe.train.align.compare import mean_cosines
from aloe.train.align.points import CENTRED, POOLED, point_name, teacher_features
from aloe.train.align.settings import AlignSettings
from aloe.train.align.statistics import FLOOR, Statistics
from aloe.train.align.trainer import AlignmentModel
from conftest import build_teacher

BLOCKS = (1, 3)


@pytest.fixture
def images():
    return torch.rand(10, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def measured(family, images, batch=4):
    teacher = build_teacher(family)
    config = bcosify(teacher).config
    statistics = Statistics.of(config, teacher, BLOCKS)

    def teach(part):
        return teacher_features(teacher, part, config, BLOCKS)

    statistics.measure(teach, images, config, teacher, batch)
    return statistics, teach(images), teacher


@pytest.mark.parametrize(("family", "prefix"), [("vit", 1), ("siglip", 0), ("dinov3", 5)])
def test_each_prefix_token_and_the_patches_have_the_literal_mean_and_deviation(family, prefix, images):
    statistics, features, teacher = measured(family, images)
    assert prefix == int(teacher.use_cls_token) + teacher.num_register_tokens
    for k in BLOCKS:
        state = features.states[k].double()
        groups = [state[:, i] for i in range(prefix)] + [state[:, prefix:].flatten(0, 1)]
        _equal_the_twin(statistics, point_name(k), groups)
    _equal_the_twin(statistics, POOLED, [features.pooled.double()])


def _equal_the_twin(statistics, name, groups):
    mean, deviation = statistics.mean(name), statistics.deviation(name)
    assert mean.shape == deviation.shape == (len(groups), groups[0].shape[1])
    for row, group in enumerate(groups):
        middle = sum(group) / len(group)
        spread = (sum((x - middle) ** 2 for x in group) / len(group)) ** 0.5
        floor = FLOOR * (spread.square().sum() / len(spread)).sqrt()
        wanted = torch.stack([max(x, floor) for x in spread]) if floor > 0 else torch.ones_like(spread) * FLOOR
        torch.testing.assert_close(mean[row].double(), middle, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(deviation[row].double(), wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", ["vit", "siglip", "dinov3"])
def test_standardised_features_have_mean_0_and_deviation_1(family, images):
    statistics, features, _ = measured(family, images)
    prefix = len(statistics.mean(point_name(3))) - 1
    patches = statistics.standardise(point_name(3), features.states[3])[:, prefix:].flatten(0, 1)
    for rows in (patches, statistics.standardise(POOLED, features.pooled)):
        torch.testing.assert_close(rows.mean(0), torch.zeros(rows.shape[1]), rtol=0, atol=1e-3)
        assert (rows.std(0, correction=0) < 1 + 1e-3).all()
        assert rows.std(0, correction=0).median() > 0.99


def test_images_that_are_all_alike_and_other_batches(images):
    alike, features, _ = measured("vit", images[:1].repeat(4, 1, 1, 1))
    assert alike.standardise(POOLED, features.pooled).isfinite().all()
    one, _, _ = measured("vit", images, batch=10)
    many, _, _ = measured("vit", images, batch=3)
    for a, b in zip(one.buffers(), many.buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_the_centred_cosine_is_that_of_features_less_the_teacher_s_mean(images):
    teacher = build_teacher("vit")
    model = AlignmentModel(bcosify(teacher), teacher, AlignSettings(objective="standardized"), BLOCKS).eval()
    features = teacher_features(teacher, images, model.config, BLOCKS)
    model.statistics.measure(
        lambda part: teacher_features(teacher, part, model.config, BLOCKS), images, model.config, teacher, 5
    )
    with torch.no_grad():
        found = model(images, features, "cosine")
        ours = model.student(images).pooler_output
    mean = features.pooled.mean(0)
    wanted = torch.cosine_similarity(ours - mean, features.pooled - mean).mean()
    assert found[CENTRED].item() == pytest.approx(wanted.item(), abs=1e-5)
    assert found[POOLED].item() != pytest.approx(found[CENTRED].item(), abs=1e-2)


def test_mean_cosines_take_the_teacher_s_mean_over_all_images_off(images):
    teacher = build_teacher("vit")
    student = bcosify(teacher)
    loader = [{"pixel_values": part} for part in images.split(4)]
    found = mean_cosines(student, teacher, loader, [3], "cpu")
    with torch.no_grad():
        ours, theirs = student(images).pooler_output, teacher(images).pooled
    mean = theirs.mean(0)
    wanted = sum(
        torch.dot(a - mean, b - mean) / ((a - mean).norm() * (b - mean).norm())
        for a, b in zip(ours, theirs, strict=True)
    )
    assert found[CENTRED] == pytest.approx(float(wanted) / len(images), abs=1e-5)
    assert set(found) == {"after_block_3", POOLED, CENTRED}
