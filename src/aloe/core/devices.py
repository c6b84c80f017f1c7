"""The devices that models run on."""

from __future__ import annotations

import os

from aloe.core import processes
from aloe.core.errors import UserError
from aloe.core.torch_state import default_device


def choose_device(wanted: str | None) -> str:
    """The device asked for, or the best there is; of several processes each has its own GPU.

    Raises:
        UserError: a device this machine does not have, or one without numbers; more processes than GPUs.
    """
    import torch

    wanted = default_device() if wanted is None else wanted
    if wanted == "cuda" and processes.count() > 1:
        wanted = _own_gpu(torch.cuda.device_count())
    try:
        if torch.device(wanted).type == "meta":
            raise UserError("The device 'meta' holds no numbers; try cpu.")
        torch.zeros(1, device=wanted).item()
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        raise UserError(f"There is no device {wanted!r} here; try --device cpu.") from error
    return str(wanted)


def _own_gpu(gpus: int) -> str:
    number = int(os.environ.get("LOCAL_RANK", "0"))
    if number >= gpus:
        raise UserError(f"This machine has {gpus} GPUs; start at most as many processes on it, or give --device cpu.")
    return f"cuda:{number}"
