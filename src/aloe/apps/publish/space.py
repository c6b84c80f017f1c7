"""The student's page as a static Space of the hub: the folder of `aloe export --to web` with a README that says so."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aloe.apps.export.int8 import read_images
from aloe.apps.export.web.build import Page, build_page, check_page
from aloe.apps.export.web.student import public_source, read_texts, texts_of
from aloe.core.errors import UserError

CARD_NAME = "README.md"
HEADERS = {  # with these the page may use threads
    "cross-origin-embedder-policy": "require-corp",
    "cross-origin-opener-policy": "same-origin",
}


@dataclass(frozen=True)
class SpaceSettings:
    """What a Space is made with: `runtime` and `texts` as in `aloe export --to web`, and photographs (`images`, at most
    `limit`) on which int8 weights are measured, which are offered then."""

    runtime: Path | None = None
    texts: Path | None = None
    text_tower: str | None = None
    images: str | None = None
    limit: int = 64


def space_folder(home: Path) -> Path:
    """Where the Space of a published folder is written: beside it."""
    return home.with_name(f"{home.name}-space")


def check_space(home: Path, settings: SpaceSettings) -> None:
    """Before anything is written.

    Raises:
        UserError: a package is missing, or something else lies where the Space is to be.
    """
    check_page(space_folder(home), overwrite=True)
    if settings.text_tower and not settings.texts:
        raise UserError("--text-tower belongs to --texts; give it as well.")


def write_space(
    model: Any, repo_id: str, home: Path, card: str, licence: dict[str, Any], settings: SpaceSettings
) -> Page:
    """Write the Space's folder beside the published one; an earlier one is replaced.

    Raises:
        UserError: as `build_page`, or texts or images that cannot be read.
    """
    names, side, source = read_texts(settings.texts), model.config.resolution, settings.images
    return build_page(
        model,
        space_folder(home),
        title=repo_id.split("/")[1],
        card=card,
        runtime=settings.runtime,
        texts=texts_of(model, names, settings.text_tower) if names else None,
        int8=source is not None,
        images=read_images(source, side, settings.limit) if source else None,
        image_source=public_source(source or ""),
        more={CARD_NAME: space_card(repo_id, licence)},
        overwrite=True,
    )


def space_card(repo_id: str, licence: dict[str, Any]) -> str:
    """README.md of the Space: its front matter, and what it is."""
    import yaml

    name = repo_id.split("/")[1]
    front = {
        "title": name,
        "sdk": "static",
        "app_file": "index.html",
        "pinned": False,
        "models": [repo_id],
        "short_description": "A model that explains itself, in your browser",
        **({"license": licence["license"]} if "license" in licence else {}),
        "custom_headers": HEADERS,
    }
    head = yaml.safe_dump(front, sort_keys=False, allow_unicode=True)
    return (
        f"---\n{head}---\n\n# {name}\n\nDrop an image and see W(x)x, the model's own explanation, computed on your device: no"
        f" image is sent anywhere. The model is [{repo_id}](https://huggingface.co/{repo_id}).\n"
    )
