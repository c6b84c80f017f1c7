"""Options of attribution methods by name: `best`, this project's own, and `paper`, as the paper's authors ran them.

`paper` (docs/attribution.md): AttnLRP in LXT's CP variant without a gamma rule, Integrated Gradients of 50 steps from a
network input of zeros, LeGrad of the last block, CheferCAM from the first block on, LIME of 500 samples over squares of 16
pixels under captum's own regression. Methods that are not named have no options, or the same ones in both.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from aloe.core.errors import UserError

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "best": {},
    "paper": {
        "attnlrp": {"variant": "cp", "gamma": 0.0, "conv_gamma": 0.0},
        "intgrad": {"steps": 50, "baseline": "zero"},
        "legrad": {"layers": 1, "pool": "mean"},
        "lime": {"samples": 500, "square": 16, "regression": "lasso", "alpha": 0.01},
    },
}


DIFFERENT = ("attnlrp", "legrad", "lime")  # methods with other options under the two


def preset_options(preset: str, method: str, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A method's options under a preset, those that are given before the preset's.

    Raises:
        UserError: there is no such preset.
    """
    if preset not in PRESETS:
        near = difflib.get_close_matches(preset, PRESETS, n=1, cutoff=0)[0]
        raise UserError(f"There is no preset {preset!r}, did you mean {near}? Presets: {', '.join(PRESETS)}.")
    return {**PRESETS[preset].get(method, {}), **(options or {})}
