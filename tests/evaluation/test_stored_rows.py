"""Features read from files by their numbers: the same rows, the same probe, and nothing kept in memory."""

from __future__ import annotations

import pytest
import torch

from aloe.core.errors import UserError
from aloe.evaluation.cache import PartFolder
from aloe.evaluation.features import FeatureSet
from aloe.evaluation.linear import ProbeSettings, fit_probe
from aloe.evaluation.stored import StoredRows


@pytest.fixture
def stored(tmp_path):
    """Three files of features, their rows together, and their labels."""
    draws, folder, parts = torch.Generator().manual_seed(0), PartFolder(tmp_path / "key"), []
    labels = torch.arange(90) % 3
    whole = torch.randn(90, 8, generator=draws) + 2 * labels[:, None]
    for i, numbers in enumerate(torch.arange(90).split([40, 1, 49])):
        folder.write(i, {"features": whole[numbers], "labels": labels[numbers], "index": numbers}, ["lost.png"])
        parts.append(folder.path(i))
    return parts, whole, labels


@pytest.mark.parametrize("numbers", [[], [0], [89, 0, 40, 41, 39, 40], [5, 6, 7, 50, 51, 8], list(range(90))])
def test_rows_are_those_of_the_files(stored, numbers):
    parts, whole, _ = stored
    numbers = torch.tensor(numbers, dtype=torch.int64)
    for rows in (StoredRows(parts), StoredRows([parts[0], whole[40:41], parts[2]])):
        assert (len(rows), rows.shape) == (90, whole.shape)
        assert torch.equal(rows[numbers], whole[numbers])


def test_few_bytes_are_read_into_memory_and_more_are_not(stored):
    parts, whole, labels = stored
    found = FeatureSet(tuple(parts), labels, torch.arange(90), 8)
    assert torch.equal(found.rows(), whole)
    assert isinstance(found.rows(4 * 90 * 8 - 1), StoredRows)


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("head", ["bcos", "linear"])
def test_a_probe_on_stored_rows_is_bit_for_bit_that_in_memory(stored, head, given):
    parts, whole, labels = stored
    settings = ProbeSettings(epochs=2, head=head, batch_size=16, learning_rates=(1e-1, 1e-2))
    validation = (whole[:20], labels[:20]) if given else None
    expected = fit_probe(whole, labels, 3, settings, validation=validation)
    later = (StoredRows([whole[:20]]), labels[:20]) if given else None
    for other in (validation, later):
        found = fit_probe(StoredRows(parts), labels, 3, settings, validation=other)
        assert torch.equal(found.weight, expected.weight)
        assert found.validation == expected.validation


def test_a_file_that_is_gone_or_cut_off_is_named(stored):
    parts, _, _ = stored
    rows = StoredRows(parts)
    parts[2].write_bytes(parts[2].read_bytes()[:-40])
    with pytest.raises(UserError, match=r"part-00002.*cut off"):
        rows[torch.tensor([89])]
    parts[0].unlink()
    with pytest.raises(UserError, match="run the same command again"):
        rows[torch.tensor([0])]
    with pytest.raises(UserError, match="cannot be read"):
        StoredRows(parts)
