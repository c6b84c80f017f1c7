"""k-nearest-neighbour accuracy on frozen features (METHOD.md section 6: k = 20, cosine, uniform votes), exact."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from aloe.errors import UserError


def knn_predict(train: Tensor, labels: Tensor, test: Tensor, k: int = 20, chunk: int = 1024) -> Tensor:
    """The class most frequent among the k training features of highest cosine; ties go to the lower class.

    Shapes: train (N, D), labels (N,), test (M, D) -> (M,).

    Raises:
        UserError: more neighbours than training images, features that are not finite, or labels missing.
    """
    if not 1 <= k <= len(train):
        raise UserError(f"k is {k} but there are {len(train)} training images.")
    if not (train.isfinite().all() and test.isfinite().all()):
        raise UserError("Some features are not finite; the model's weights are broken.")
    if len(labels) != len(train) or labels.min() < 0:
        raise UserError("k-NN needs a label for every training image: one folder per class.")
    unit = F.normalize(train, dim=-1)
    classes = int(labels.max()) + 1
    found = []
    for part in test.split(chunk):
        neighbours = (F.normalize(part, dim=-1) @ unit.T).topk(k, dim=1).indices
        found.append(F.one_hot(labels[neighbours], classes).sum(1).argmax(1))
    return torch.cat(found)
