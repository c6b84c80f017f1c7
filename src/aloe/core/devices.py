"""The devices that models run on."""

from __future__ import annotations

from aloe.core.errors import UserError
from aloe.core.torch_state import default_device


def choose_device(wanted: str | None) -> str:
    """The device asked for, or the best there is.

    Raises:
        UserError: a device this machine does not have, or one without numbers.
    """
    import torch

    if wanted is None:
        return default_device()
    try:
        if torch.device(wanted).type == "meta":
            raise UserError("The device 'meta' holds no numbers; try cpu.")
        torch.zeros(1, device=wanted).item()
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        raise UserError(f"There is no device {wanted!r} here; try --device cpu.") from error
    return str(wanted)
