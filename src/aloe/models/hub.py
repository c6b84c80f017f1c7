"""Turns the many ways a checkpoint can fail to load into one sentence that says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aloe.core.errors import UserError
from aloe.core.files import read_object
from aloe.core.progress import announce


@contextmanager
def explain_hub_errors(name: str) -> Iterator[None]:
    """Within the block, errors of loading `name` (hub id or folder) become a `UserError`."""
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError, StrictDataclassError
    from safetensors import SafetensorError

    path = Path(name)
    local = path.exists() or name.startswith((".", "/", "~"))
    if not local and "/" not in name:  # asked without a connection, the hub answers after half a minute of retries
        raise UserError(f"There is no folder {name} here, and a hub id is OWNER/NAME; check the name or give its path.")
    if local and not path.is_dir():
        raise UserError(f"{name} is not a folder; give a folder with config.json and model.safetensors, or a hub id.")
    if local and not (path / "config.json").is_file():
        raise UserError(f"{name} holds no config.json; give a folder that save_pretrained wrote, or a hub id.")
    if local:
        read_object(path / "config.json", "fetch it again")
    if not local:
        announce(f"Looking for {name} on the hub ...")
    try:
        yield
    except SafetensorError as error:
        raise UserError(f"{name}: the safetensors file is truncated or corrupt ({error}); fetch it again.") from error
    except (StrictDataclassError, TypeError, AttributeError, ArithmeticError) as error:  # how wrong fields show
        raise UserError(f"{path / 'config.json'} has a field of a wrong type or value: {_sentence(error)}.") from error
    except LookupError as error:  # a table that lacks an entry
        raise UserError(f"{name} could not be loaded: its files have no entry {_sentence(error)}.") from error
    except (OSError, ValueError, RuntimeError) as error:
        if isinstance(error, UserError):
            raise
        cause = _chain(error)
        if any(isinstance(e, GatedRepoError) for e in cause):
            message = (
                f"The hub repository {name} is gated: accept its terms at https://huggingface.co/{name} and run "
                "`hf auth login`, or download its files by hand and give the folder."
            )
        elif any(isinstance(e, RepositoryNotFoundError) for e in cause):
            message = f"There is no hub repository {name} (or it is private: run `hf auth login`), and no such folder."
        elif local and isinstance(error, OSError) and not any(path.glob("*.safetensors")):
            message = f"{name} has no model.safetensors; only safetensors are loaded, never pickled weights."
        elif not local and (isinstance(error, OSError) or any(isinstance(e, HFValidationError) for e in cause)):
            message = (
                f"{name} is neither a local folder nor reachable on the hub: check the name and the connection, or fetch it "
                f"where there is one, `hf download {name} --local-dir FOLDER`, and give FOLDER. Without a connection there "
                "are the models that come along: `aloe teachers` lists them, zoo:scenes-aloe is one."
            )
        else:
            message = f"{name} could not be loaded: {_sentence(error)}."
        raise UserError(message) from error


def _sentence(error: BaseException) -> str:
    """The first line of a message, with the second where the first only announces it, or else the error's kind."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[: 1 + lines[0].endswith(":")]).rstrip(".")


def _chain(error: BaseException | None) -> list[BaseException]:
    errors = []
    while error is not None and error not in errors:
        errors.append(error)
        error = error.__cause__ or error.__context__
    return errors
