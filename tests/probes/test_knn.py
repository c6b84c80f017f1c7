"""k-NN against scikit-learn, exactly."""

from __future__ import annotations

import pytest
import torch

from aloe.errors import UserError
from aloe.probes.knn import knn_predict


@pytest.mark.parametrize(("k", "chunk"), [(1, 7), (5, 1024), (20, 10), (200, 64)])
def test_equals_scikit_learn(k, chunk):
    neighbors = pytest.importorskip("sklearn.neighbors")
    generator = torch.Generator().manual_seed(k)
    train, test = torch.randn(200, 16, generator=generator), torch.randn(50, 16, generator=generator)
    labels = torch.randint(0, 4, (200,), generator=generator)
    theirs = neighbors.KNeighborsClassifier(k, weights="uniform", algorithm="brute", metric="cosine")
    expected = theirs.fit(train.numpy(), labels.numpy()).predict(test.numpy())
    assert knn_predict(train, labels, test, k, chunk).tolist() == expected.tolist()


def test_norms_do_not_count_and_ties_go_to_the_lower_class():
    train = torch.tensor([[100.0, 0.0], [0.0, 0.1]])
    assert knn_predict(train, torch.tensor([1, 0]), torch.tensor([[0.9, 0.1]]), k=1).tolist() == [1]
    assert knn_predict(train, torch.tensor([1, 0]), torch.tensor([[0.9, 0.1]]), k=2).tolist() == [0]


@pytest.mark.parametrize(
    ("train", "labels", "k", "words"),
    [
        (torch.ones(3, 2), [0, 1, 1], 4, "k is 4 but there are 3"),
        (torch.ones(3, 2), [0, 1, 1], 0, "k is 0"),
        (torch.full((3, 2), float("nan")), [0, 1, 1], 1, "not finite"),
        (torch.ones(3, 2), [0, -1, 1], 1, "a label for every"),
        (torch.ones(3, 2), [0, 1], 1, "a label for every"),
    ],
)
def test_mistakes(train, labels, k, words):
    with pytest.raises(UserError, match=words):
        knn_predict(train, torch.tensor(labels), torch.ones(1, 2), k)
