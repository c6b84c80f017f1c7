"""A written folder to its repository on the hub; whatever goes wrong there is one sentence that says what to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aloe.core.errors import UserError


def push_folder(
    folder: Path, files: Sequence[str], repo_id: str, *, kind: str = "model", private: bool = False, api: Any = None
) -> str:
    """Create the repository where it is not there, and upload exactly these files in one commit; returns its address.

    `kind` is `model`, or `space` for a static Space.
    `api` has the methods of `huggingface_hub.HfApi` that are used: `create_repo`, `repo_info`, `upload_folder`.

    Raises:
        UserError: not logged in, no right to write, a public repository where a private one is meant, no connection, or the
            hub refuses what was sent. The folder stays as it is.
    """
    from huggingface_hub import HfApi

    api = HfApi() if api is None else api
    with _explained(repo_id, folder):
        sdk = {"space_sdk": "static"} if kind == "space" else {}
        url = api.create_repo(repo_id, repo_type=kind, private=private or None, exist_ok=True, **sdk)
        if private and not api.repo_info(repo_id, repo_type=kind).private:
            raise UserError(
                f"{repo_id} is already there and public: make it private in its settings, or leave out --private; nothing"
                " was uploaded."
            )
        api.upload_folder(
            repo_id=repo_id,
            repo_type=kind,
            folder_path=folder,
            allow_patterns=list(files),
            commit_message="Publish with aloe",
        )
    return str(url)


@contextmanager
def _explained(repo_id: str, folder: Path) -> Iterator[None]:
    """Within the block, errors of the hub become a `UserError`."""
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HTTPError,
        LocalTokenNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    ready = f"{folder} is ready; run the same command again"
    try:
        yield
    except UserError:
        raise
    except LocalTokenNotFoundError as error:
        raise UserError(f"You are not logged in to the hub: run `hf auth login`. {ready}.") from error
    except HfHubHTTPError as error:
        code, said = error.response.status_code, (error.server_message or "").strip().rstrip(".")
        if code == 401 and not isinstance(error, RepositoryNotFoundError):
            message = "The hub does not know you: run `hf auth login` with a token that may write."
        elif code in (401, 403, 404):
            message = f"You may not write to {repo_id}: check the owner's name, and that your token may write there."
        elif code >= 500 or code == 429:
            message = f"The hub cannot take it now ({code}{f', {said}' if said else ''})."
        else:
            message = f"The hub refused {repo_id} ({code}{f', {said}' if said else ''})."
        raise UserError(f"{message} {ready}.") from error
    except (OfflineModeIsEnabled, HTTPError, ConnectionError, TimeoutError) as error:
        raise UserError(f"The hub cannot be reached: check the connection (and HF_HUB_OFFLINE). {ready}.") from error
    except (OSError, RuntimeError, ValueError) as error:
        first = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
        raise UserError(f"{repo_id} could not be uploaded: {first}. {ready}.") from error
