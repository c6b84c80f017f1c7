"""Types of the methods' options with their bounds: what is declared here is checked wherever an option is given."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from aloe.core.settings import Seed

Strength = Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)]
"""Of the gamma rule; beyond a thousand the negative parts no longer count in float32."""
Penalty = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
"""Of a regression's weights."""
Count = Annotated[int, Field(ge=1, le=100_000)]
"""Passes of an image through the model."""
Side = Annotated[int, Field(ge=1, le=4096)]
"""Pixels, or parts along an axis."""

__all__ = ["Count", "Penalty", "Seed", "Side", "Strength"]
