"""ALOE, ALign Once to Explain: any foundation Vision Transformer, made inherently interpretable, without labels.

The public names, each imported when first used so that `import aloe` stays fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aloe.alignment.run import align
    from aloe.attribution.inherent import Explanation, explain
    from aloe.attribution.methods import Attribution, attribute
    from aloe.attribution.targets import TextTarget
    from aloe.bcos.dynamic import explanation_mode
    from aloe.bcos.functional import encode
    from aloe.errors import UserError
    from aloe.finetuning.run import finetune
    from aloe.models.configuration import BcosViTConfig
    from aloe.models.convert import bcosify
    from aloe.models.modeling import BcosViTForImageClassification, BcosViTModel
    from aloe.models.saving import load
    from aloe.models.teachers import Teacher, load_teacher
    from aloe.probes.evaluate import evaluate

__version__ = "0.1.0"

_HOMES = {
    "align": "aloe.alignment.run",
    "attribute": "aloe.attribution.methods",
    "Attribution": "aloe.attribution.methods",
    "bcosify": "aloe.models.convert",
    "BcosViTConfig": "aloe.models.configuration",
    "BcosViTForImageClassification": "aloe.models.modeling",
    "BcosViTModel": "aloe.models.modeling",
    "encode": "aloe.bcos.functional",
    "evaluate": "aloe.probes.evaluate",
    "explain": "aloe.attribution.inherent",
    "Explanation": "aloe.attribution.inherent",
    "explanation_mode": "aloe.bcos.dynamic",
    "finetune": "aloe.finetuning.run",
    "load": "aloe.models.saving",
    "load_teacher": "aloe.models.teachers",
    "Teacher": "aloe.models.teachers",
    "TextTarget": "aloe.attribution.targets",
    "UserError": "aloe.errors",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'aloe' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
