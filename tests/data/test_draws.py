"""Draws are pure functions of (source, seed, i); unreadable files are skipped and counted."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from aloe.data.decode import DataError, DraftSize, UnreadableImage
from aloe.data.draws import (
    AlignmentDraws,
    FaultLog,
    ImageDataset,
    chance_of,
    check_source,
    collate_draws,
    collate_images,
)
from aloe.data.sources import open_images
from aloe.data.subset import SubsetImages
from aloe.data.transforms import Compose, RandomHorizontalFlip, RandomResizedCrop, ResizeCenterCrop, to_tensor

RANDOM = Compose(RandomResizedCrop(8), RandomHorizontalFlip())
FIXED = ResizeCenterCrop(8)


class Flat:
    """`count` flat images, image i of colour (i, 0, 0); those in `bad` are unreadable."""

    classes = None

    def __init__(self, count: int, bad: tuple[int, ...] = (), labelled: bool = False) -> None:
        self.count, self.bad = count, bad
        self.labels = np.arange(count) % 3 if labelled else None

    def __len__(self) -> int:
        return self.count

    def load(self, index: int, draft_size: DraftSize | None = None) -> Image.Image:
        if index in self.bad:
            raise UnreadableImage(self.name(index), "broken")
        return Image.new("RGB", (8, 8), (index, 0, 0))

    def name(self, index: int) -> str:
        return f"{index}.png"

    def fingerprint(self) -> str:
        return str(self.count)


def indices(samples: Iterator[dict[str, Any]]) -> list[int]:
    return [round(sample["pixel_values"][0, 0, 0].item() * 255) for sample in samples]


def run(draws: AlignmentDraws, first: int, last: int) -> list[int]:
    return indices(draws[i] for i in range(first, last))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A zip of 13 noise images, two of them cut off."""
    path = tmp_path / "photos.zip"
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as archive:
        for k in range(13):
            buffer = io.BytesIO()
            pixels = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(buffer, "JPEG")
            data = buffer.getvalue()
            archive.writestr(f"{k:02d}.jpg", data[: len(data) // 2] if k in (3, 8) else data)
    return path


def batches(draws: AlignmentDraws, workers: int, context: str | None = None) -> list[dict]:
    loader = DataLoader(
        draws,
        batch_size=5,
        num_workers=workers,
        collate_fn=collate_draws,
        multiprocessing_context=context,
    )
    return list(loader)


def assert_equal_batches(left: list[dict], right: list[dict]) -> None:
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert torch.equal(a["pixel_values"], b["pixel_values"])
        assert torch.equal(a["label"], b["label"])
        assert a["unreadable"] == b["unreadable"]


def test_each_epoch_is_a_new_permutation() -> None:
    draws = AlignmentDraws(Flat(40), FIXED, seed=0, total=100)
    first, second, rest = run(draws, 0, 40), run(draws, 40, 80), run(draws, 80, 100)
    assert sorted(first) == sorted(second) == list(range(40))
    assert first != second
    assert len(set(rest)) == 20
    assert len(draws) == 100
    with pytest.raises(IndexError):
        draws[100]


def test_seeds_differ_and_repeat() -> None:
    orders = [run(AlignmentDraws(Flat(40), FIXED, seed, 40), 0, 40) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 199), min_size=1, max_size=30), st.integers(0, 5))
def test_a_draw_depends_on_nothing_but_its_number(asked: list[int], seed: int) -> None:
    """Asked in any order, from one object or a new one for each, a draw is the same."""
    source = open_noise()
    draws = AlignmentDraws(source, RANDOM, seed, 200)
    for i in asked:
        alone = AlignmentDraws(source, RANDOM, seed, 200)[i]
        assert torch.equal(draws[i]["pixel_values"], alone["pixel_values"])


class Noise(Flat):
    def load(self, index: int, draft_size: DraftSize | None = None) -> Image.Image:
        pixels = np.random.default_rng(index).integers(0, 256, (12, 16, 3), dtype=np.uint8)
        return Image.fromarray(pixels)


def open_noise() -> Noise:
    return Noise(7)


def test_augmentation_differs_between_draws_of_one_image() -> None:
    draws = AlignmentDraws(Noise(1), RANDOM, 0, 6)
    seen = {draws[i]["pixel_values"].numpy().tobytes() for i in range(6)}
    assert len(seen) == 6


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(workers: int, photos: Path) -> None:
    draws = AlignmentDraws(open_images(photos), RANDOM, seed=0, total=40)
    expected = batches(draws, 0)
    assert any(batch["unreadable"] for batch in expected)
    assert_equal_batches(batches(draws, workers), expected)


@pytest.mark.slow
def test_spawned_workers_change_nothing(photos: Path) -> None:
    draws = AlignmentDraws(open_images(photos), RANDOM, seed=0, total=20)
    assert_equal_batches(batches(draws, 1, "spawn"), batches(draws, 0))


def test_draft_decoding_is_asked_for_and_close_to_full_decoding(tmp_path: Path) -> None:
    values = np.linspace(0, 255, 640 * 480 * 3).reshape(480, 640, 3).astype(np.uint8)
    Image.fromarray(values).save(tmp_path / "a.jpg", quality=95)
    source, sizes = open_images(tmp_path), []

    def seen(image: Image.Image, generator: np.random.Generator) -> Image.Image:
        sizes.append(min(image.size))
        return RandomResizedCrop(32)(image, generator)

    draws = AlignmentDraws(source, Compose(RandomResizedCrop(32)), 0, 10)
    full = AlignmentDraws(source, seen, 0, 10)
    for i in range(10):
        difference = (draws[i]["pixel_values"] - full[i]["pixel_values"]).abs()
        assert difference.mean() < 0.02
    assert sizes == [480] * 10
    seen.enough = RandomResizedCrop(32).enough
    sizes.clear()
    assert [full[i] for i in range(10)]
    assert max(sizes) < 480


def test_unreadable_images_fall_through_to_the_next() -> None:
    bad = (4, 5, 11)
    clean = run(AlignmentDraws(Flat(12), FIXED, 0, 12), 0, 12)
    draws = AlignmentDraws(Flat(12, bad), FIXED, 0, 12)
    for position, index in enumerate(clean):
        sample, chain = draws[position], []
        step = position
        while clean[step % 12] in bad:
            chain.append(f"{clean[step % 12]}.png: broken")
            step += 1
        assert sample["unreadable"] == chain
        assert indices(iter([sample])) == [clean[step % 12]]
        assert bool(chain) == (index in bad)


@pytest.mark.parametrize("bad", [(), (0, 4, 5, 11, 17)])
def test_the_label_is_that_of_the_image_in_the_sample(bad: tuple[int, ...]) -> None:
    """Flat image i has the colour i and the label i % 3, also where it stands in for an unreadable one."""
    draws = AlignmentDraws(Flat(20, bad, labelled=True), FIXED, 0, 60)
    batch = collate_draws([draws[i] for i in range(60)])
    shown = indices(draws[i] for i in range(60))
    assert batch["label"].dtype == torch.int64
    assert batch["label"].tolist() == [index % 3 for index in shown]
    assert sum(bool(draws[i]["unreadable"]) for i in range(60)) >= 3 * len(bad)


def test_labels_of_a_part_of_a_source() -> None:
    part = SubsetImages(Flat(20, (7,), labelled=True), np.array([19, 7, 8, 3]))
    draws = AlignmentDraws(part, RANDOM, 0, 12)
    shown = indices(draws[i] for i in range(12))
    assert set(shown) == {19, 8, 3}
    assert [draws[i]["label"] for i in range(12)] == [index % 3 for index in shown]


def test_unlabelled_draws_have_the_label_minus_1(photos: Path) -> None:
    draws = AlignmentDraws(open_images(photos), RANDOM, seed=0, total=4)
    assert collate_draws([draws[i] for i in range(4)])["label"].tolist() == [-1] * 4


@pytest.mark.parametrize("count", [3, 500])
def test_a_draw_gives_up_at_last(count: int) -> None:
    draws = AlignmentDraws(Flat(count, tuple(range(count))), FIXED, 0, 5)
    with pytest.raises(DataError, match=f"{min(count, 64)} images in a row are unreadable"):
        draws[0]


def test_errors_of_workers_stay_one_sentence() -> None:
    draws = AlignmentDraws(Flat(3, (0, 1, 2)), FIXED, 0, 5)
    with pytest.raises(DataError) as caught:
        batches(draws, 1)
    assert str(caught.value).startswith("3 images in a row are unreadable: ")
    assert "\n" not in str(caught.value)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="seed -1"):
        AlignmentDraws(Flat(3), FIXED, -1, 5)
    with pytest.raises(ValueError, match="total 0"):
        AlignmentDraws(Flat(3), FIXED, 0, 0)


def test_fault_log_counts_and_reports(photos: Path) -> None:
    source = open_images(photos)
    draws = AlignmentDraws(source, RANDOM, seed=0, total=26)
    log = FaultLog(len(source), max_bad_fraction=0.2)
    for batch in batches(draws, 2):
        assert set(log.take(batch)) == {"pixel_values", "label"}
    assert {message.split(":")[0] for message in log.draws_lost} == {"03.jpg", "08.jpg"}
    assert sum(log.draws_lost.values()) >= 4  # each met in both epochs
    assert "2 unreadable images were skipped" in log.summary()
    assert "03.jpg: " in log.summary()


def test_fault_log_stops_a_run_past_the_limit() -> None:
    log = FaultLog(100, max_bad_fraction=0.02)
    pixels = torch.zeros(1, 3, 2, 2)
    for name in ("a", "b", "a"):
        log.take({"pixel_values": pixels, "unreadable": [name]})
    with pytest.raises(DataError, match=r"3 of 100 images are unreadable.*2\.0%.*a; b; c"):
        log.take({"pixel_values": pixels, "unreadable": ["c"]})


def test_fault_log_of_a_stream_stops_where_the_limit_is_surely_past() -> None:
    batch = {"pixel_values": torch.zeros(37, 3, 2, 2)}
    log = FaultLog(max_bad_fraction=0.05)
    for k in range(5):  # 7.5 %: one run in eight within the limit has that many in 200
        log.take({**batch, "unreadable": [f"{k}{m}" for m in range(3)]})
    hopeless = {"pixel_values": torch.zeros(5, 3, 2, 2), "unreadable": [f"{m}" for m in range(35)]}
    with pytest.raises(DataError, match=r"50 of 240 images are unreadable, past the allowed 5.0%"):
        log.take(hopeless)


@pytest.mark.parametrize("fraction", [0.0, 0.02, 0.05, 0.3, 1.0])
@pytest.mark.parametrize(("seen", "images"), [(5, 12), (64, 1000), (12, 12), (40, None)])
def test_chances_are_those_of_counting(fraction: float, seen: int, images: int | None) -> None:
    worst = int(fraction * (images or 0) + 1e-9)
    for bad in range(seen + 2):
        if images is None:
            terms = [math.comb(seen, k) * fraction**k * (1 - fraction) ** (seen - k) for k in range(bad, seen + 1)]
        else:
            ways = [math.comb(worst, k) * math.comb(images - worst, seen - k) for k in range(bad, seen + 1)]
            terms = [way / math.comb(images, seen) for way in ways]
        assert chance_of(bad, seen, fraction, images) == pytest.approx(sum(terms), rel=1e-9, abs=1e-12)


def test_four_percent_within_a_limit_of_five_is_never_refused_early() -> None:
    """The tolerance holds for all images, not for a first sample of them; what is past it is refused in the run."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        bad = tuple(rng.choice(1000, 40, replace=False).tolist())
        found = check_source(Flat(1000, bad))
        assert len(found) <= 64
    spaced = np.linspace(0, 999, 64).round().astype(int).tolist()
    assert len(check_source(Flat(1000, tuple(spaced[:50])))) == 50  # the order of the images does not matter
    with pytest.raises(DataError, match=r"past the allowed 5.0%"):
        check_source(Flat(1000, tuple(range(0, 1000, 2))))


def test_what_is_left_out_is_listed_once_and_told(tmp_path: Path) -> None:
    path = tmp_path / "unreadable.txt"
    log = FaultLog(9, path=path, left_out=["a folder: Permission denied"])
    batch = {"pixel_values": torch.zeros(2, 3, 2, 2), "unreadable": [], "left_out": ["s.tar: 3 images\nleft out"]}
    for _ in range(2):
        assert set(log.take(dict(batch))) == {"pixel_values"}
    expected = ["a folder: Permission denied", "s.tar: 3 images\\u000aleft out"]
    assert (tmp_path / "left_out.txt").read_text().splitlines() == expected
    assert not path.exists()
    again = FaultLog(9, path=path)
    assert again.left_out == expected
    assert again.summary().startswith("Left out: a folder: Permission denied; s.tar: 3 images")


def test_names_that_are_no_text_are_listed_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "unreadable.txt"
    path.write_bytes(b"caf\xe9.jpg: broken\n")  # of before they were escaped
    log = FaultLog(100, path=path)
    assert list(log.draws_lost) == ["caf\\xe9.jpg: broken"]
    messages = ["caf\udce9.jpg: broken", "a\nb.jpg: broken", "a\x1b]0;x\x07.jpg: broken"]
    for _ in range(2):
        log.take({"pixel_values": torch.zeros(2, 3, 2, 2), "unreadable": messages})
    lines = path.read_bytes().split(b"\n")
    assert lines[1:] == [b"a\\u000ab.jpg: broken", b"a\\u001b]0;x\\u0007.jpg: broken", b""]
    assert list(FaultLog(100, path=path).draws_lost) == list(log.draws_lost)


def test_fault_log_without_faults() -> None:
    log = FaultLog(3)
    log.take({"pixel_values": torch.zeros(2, 3, 2, 2), "unreadable": []})
    assert log.summary() is None


def test_check_source() -> None:
    assert check_source(Flat(100)) == []
    assert check_source(Flat(100, (0,)), sample=40) == ["0.png: broken"]
    assert check_source(Flat(10, (0, 1)), max_bad_fraction=0.2) == [
        "0.png: broken",
        "1.png: broken",
    ]
    with pytest.raises(DataError, match="2 of 10 images are unreadable"):
        check_source(Flat(10, (0, 1)))


def test_evaluation_is_in_order_with_labels() -> None:
    data = ImageDataset(Flat(7, labelled=True), FIXED)
    batch = collate_images([data[i] for i in range(7)])
    assert indices(data[i] for i in range(7)) == list(range(7))
    assert batch["pixel_values"].shape == (7, 3, 8, 8)
    assert batch["label"].tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert batch["index"].tolist() == list(range(7))
    assert ImageDataset(Flat(7), FIXED)[3]["label"] == -1
    with pytest.raises(IndexError):
        data[7]


def test_evaluation_leaves_out_unreadable_and_skipped_images() -> None:
    data = ImageDataset(Flat(7, (2, 5), labelled=True), FIXED, skip=[5, 0])
    assert (len(data), data.skip) == (5, [0, 5])
    loader = DataLoader(data, batch_size=2, num_workers=1, collate_fn=collate_images)
    got = list(loader)
    assert [batch["index"].tolist() for batch in got] == [[1], [3, 4], [6]]
    assert [len(batch["pixel_values"]) for batch in got] == [1, 2, 1]
    assert [name for batch in got for name in batch["unreadable"]] == ["2.png: broken"]


def test_a_batch_of_unreadable_images_is_empty() -> None:
    data = ImageDataset(Flat(2, (0, 1)), FIXED)
    batch = collate_images([data[0], data[1]])
    assert batch["pixel_values"].shape == (0, 3, 8, 8)
    assert len(batch["label"]) == len(batch["index"]) == 0


def test_evaluation_equals_transform_then_tensor(photos: Path) -> None:
    source = open_images(photos)
    got = ImageDataset(source, FIXED)[1]["pixel_values"]
    assert torch.equal(got, to_tensor(FIXED(source.load(1))))
