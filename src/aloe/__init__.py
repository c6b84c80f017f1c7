"""ALOE, ALign Once to Explain: any foundation Vision Transformer, made inherently interpretable, without labels.

The public names, each imported when first used so that `import aloe` stays fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from aloe.core import moved

if TYPE_CHECKING:
    from aloe.attribution.alike.similarity import Similarity, similarity
    from aloe.attribution.inherent import Explanation, explain
    from aloe.attribution.methods import Attribution, attribute
    from aloe.attribution.targets import TextTarget
    from aloe.bcos.dynamic import explanation_mode
    from aloe.bcos.functional import encode
    from aloe.core.errors import UserError
    from aloe.evaluation.evaluate import evaluate
    from aloe.models.configuration import BcosViTConfig
    from aloe.models.convert import bcosify
    from aloe.models.modeling import BcosViTForImageClassification, BcosViTModel
    from aloe.models.saving import load
    from aloe.models.teachers import Teacher, load_teacher
    from aloe.train.align.run import align
    from aloe.train.finetune.run import finetune

__version__ = "0.1.0"

_HOMES = {
    "align": "aloe.train.align.run",
    "attribute": "aloe.attribution.methods",
    "Attribution": "aloe.attribution.methods",
    "bcosify": "aloe.models.convert",
    "BcosViTConfig": "aloe.models.configuration",
    "BcosViTForImageClassification": "aloe.models.modeling",
    "BcosViTModel": "aloe.models.modeling",
    "encode": "aloe.bcos.functional",
    "evaluate": "aloe.evaluation.evaluate",
    "explain": "aloe.attribution.inherent",
    "Explanation": "aloe.attribution.inherent",
    "explanation_mode": "aloe.bcos.dynamic",
    "finetune": "aloe.train.finetune.run",
    "load": "aloe.models.saving",
    "load_teacher": "aloe.models.teachers",
    "similarity": "aloe.attribution.alike.similarity",
    "Similarity": "aloe.attribution.alike.similarity",
    "Teacher": "aloe.models.teachers",
    "TextTarget": "aloe.attribution.targets",
    "UserError": "aloe.core.errors",
}
__all__ = list(_HOMES)
moved.install()


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'aloe' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
