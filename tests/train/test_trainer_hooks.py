"""The private methods of transformers' trainer that ours overrides: one that is renamed would be passed over in silence."""

from __future__ import annotations

import pytest
from transformers import Trainer

from aloe.train.sealed import SealedTrainer
from aloe.train.trainer import DrawTrainer

OF_CHECKPOINTS = {
    *("_save_checkpoint", "_save", "_load_from_checkpoint"),
    *(f"_{verb}_{what}" for verb in ("save", "load") for what in ("optimizer_and_scheduler", "scaler", "rng_state")),
}
OURS = {"_core", "_unwritten", "_held_out", "_too_large", "_check_finite", "_diverged", "_shard"}


@pytest.mark.parametrize(("kind", "hooks"), [(SealedTrainer, OF_CHECKPOINTS), (DrawTrainer, {"_get_train_sampler"})])
def test_transformers_has_every_hook(kind, hooks):
    private = {name for name, value in vars(kind).items() if name[0] == "_" and name[:2] != "__" and callable(value)}
    assert private - OURS == hooks
    assert {name for name in hooks if not hasattr(Trainer, name)} == set()
