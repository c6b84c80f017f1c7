"""`publish`: a student, its card and example pictures in a folder that appears whole, and from there on the hub."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aloe.apps.export.web.build import Page
from aloe.apps.publish.card import Origin, write_card
from aloe.apps.publish.licences import choose_licence, licence_of, named
from aloe.apps.publish.names import check_repo_id
from aloe.apps.publish.numbers import collect_numbers
from aloe.apps.publish.push import push_folder
from aloe.apps.publish.space import SpaceSettings, check_space, write_space
from aloe.apps.publish.student import TRAINED, Published, read_student
from aloe.core.errors import UserError
from aloe.core.files import replace_folder
from aloe.evaluation.backbones import model_fingerprint
from aloe.report.rows import read_results

CARD_NAME, MODEL_FILES = "README.md", ("config.json", "model.safetensors", "preprocessor_config.json")
_EXAMPLE, _MARK = "example-{}.png", re.compile(r"<!-- aloe publish (\S+) ([0-9a-f]{16}) -->\n\Z")


@dataclass(frozen=True)
class Publication:
    """`files` of `folder` are all there is; `url` is None after a dry run; `notes` say what readers will miss. `space` is the
    page that was written beside it, if one was, and `space_url` its address."""

    repo_id: str
    folder: Path
    files: list[str]
    url: str | None
    notes: list[str]
    space: Page | None = None
    space_url: str | None = None


def publish(
    student: str | Path,
    repo_id: str,
    *,
    results: Sequence[str | Path] = (),
    output_dir: str | Path | None = None,
    dry_run: bool = False,
    private: bool = False,
    licence: str | None = None,
    base_model: str | None = None,
    data_name: str | None = None,
    data_licence: str | None = None,
    examples: Sequence[str | Path] = (),
    allow_unaligned: bool = False,
    space: SpaceSettings | None = None,
    api: Any = None,
) -> Publication:
    """Write a student's folder for the hub and push it.

    Args:
        student: folder of a finished run, or of a student that was saved.
        repo_id: `OWNER/NAME`.
        results: folders of `aloe evaluate` (or their files), whose rows of this student and of its teacher go into the card.
        output_dir: default `published/NAME`; an earlier one of the same repository is replaced.
        dry_run: push nothing. private: make the repository private.
        licence: of the student; default: its teacher's, where that is known.
        base_model: hub id of the teacher, where the student knows it by a folder's name.
        data_name, data_licence: of the images that it learned from.
        examples: images whose explanations the card shows.
        allow_unaligned: publish even what was only converted.
        space: write the student's page too, as a static Space of the same name, in a folder beside (`NAME-space`).
        api: in place of `huggingface_hub.HfApi()`.

    Raises:
        UserError: anything in the arguments, the student or the folder that the user can mend, or what the hub says.
    """
    check_repo_id(repo_id)
    source, home = Path(student), Path(output_dir or Path("published") / repo_id.split("/")[1]).resolve()
    _check_home(home, source, repo_id)
    if space is not None:
        check_space(home, space)
    rows, notes = read_results([Path(path) for path in results]) if results else ([], [])
    published = read_student(source, base_model)
    if published.stage not in TRAINED and not allow_unaligned:
        why = "was only converted" if published.stage == "converted" else "does not say whether it was trained"
        raise UserError(
            f"{source} {why}: align it first (aloe align), or say --allow-unaligned to publish it all the same, marked as"
            " such."
        )
    nearest, stated = published.teacher.get("source") or published.teacher.get("name"), published.teacher.get("licence")
    inherited = named(stated) if stated else licence_of(*published.made_from)
    origin = Origin(data_name, data_licence, inherited, choose_licence(licence, inherited, nearest or "the teacher"))
    numbers = collect_numbers(rows, model_fingerprint(published.model), published.known_as, repo_id)
    pictures = _explained(published.model, examples)

    staging = home.with_name(f".{home.name}.publishing")
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        _write(staging, published, repo_id, origin, numbers, pictures)
        files = sorted(path.name for path in staging.iterdir())
        replace_folder(home, staging)
    except OSError as error:
        raise UserError(f"{home} cannot be written: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    notes += _missing(published, origin, bool(numbers.tables))
    page = None
    if space is not None:
        card = (home / CARD_NAME).read_text(encoding="utf-8")
        page = write_space(published.model, repo_id, home, card, origin.licence.front_matter, space)
        notes += page.notes
    if dry_run:
        return Publication(repo_id, home, files, None, notes, page)
    url = push_folder(home, files, repo_id, private=private, api=api)
    space_url = None
    if page is not None:
        space_url = push_folder(page.folder, list(page.files), repo_id, kind="space", private=private, api=api)
    return Publication(repo_id, home, files, url, notes, page, space_url)


def _check_home(home: Path, student: Path, repo_id: str) -> None:
    """Only an empty folder, or one that this wrote for the same repository and nobody has changed, is written to."""
    advice = "give another --output-dir"
    if home.exists() and not home.is_dir():
        raise UserError(f"{home} is a file; {advice}.")
    if home == student.resolve():
        raise UserError(f"{home} is the student itself; {advice}.")
    there = sorted(path.name for path in home.iterdir()) if home.is_dir() else []
    if home.is_dir() and Path.cwd().is_relative_to(home):
        raise UserError(f"{home} is the folder you are in, and is to be replaced; {advice}.")
    if not there:
        return
    strange = [
        name for name in there if name not in (CARD_NAME, *MODEL_FILES) and not re.fullmatch(r"example-\d+\.png", name)
    ]
    if strange or CARD_NAME not in there:
        raise UserError(f"{home} holds {(strange or there)[0]}, which `aloe publish` did not write; {advice}.")
    text = (home / CARD_NAME).read_text(encoding="utf-8", errors="replace")
    mark = _MARK.search(text)
    if mark is None or mark[2] != _hash(text[: mark.start()]):
        raise UserError(
            f"{home / CARD_NAME} was changed by hand and would be lost: push it with `hf upload {repo_id} {home}`, or"
            f" {advice}."
        )
    if mark[1] != repo_id:
        raise UserError(f"{home} was written for {mark[1]}, not for {repo_id}; {advice}.")


def _write(
    folder: Path, student: Published, repo_id: str, origin: Origin, numbers: Any, pictures: Sequence[Any]
) -> None:
    from aloe.draw.gallery import save_png
    from aloe.models.saving import save_student

    save_student(student.model, folder)
    names = [_EXAMPLE.format(number) for number in range(1, len(pictures) + 1)]
    for name, picture in zip(names, pictures, strict=True):
        save_png(picture, folder / name)
    card = write_card(student, repo_id, origin, numbers, names)
    mark = f"<!-- aloe publish {repo_id} {_hash(card)} -->\n"
    (folder / CARD_NAME).write_text(card + mark, encoding="utf-8")


def _explained(model: Any, images: Sequence[str | Path]) -> list[Any]:
    """A picture of each image with the model's explanation, as `aloe explain` draws it."""
    from aloe.attribution.files import pictures, rows, seen
    from aloe.attribution.inherent import explain
    from aloe.attribution.inputs import as_batch
    from aloe.data.decode import decode_image

    if not images:
        return []
    missing = [path for path in map(Path, images) if not path.is_file()]
    if missing:
        raise UserError(f"{missing[0]} is not a file; --example takes image files.")
    batch = as_batch([decode_image(Path(path)) for path in images], model)
    explanation = explain(model, batch)
    titles = [f"{seen(n, model) or 'feature'}: {n['logit']:.2f}" for n in rows(explanation, model)]
    return list(pictures(batch, explanation, titles))


def _missing(student: Published, origin: Origin, measured: bool) -> list[str]:
    notes = []
    if not measured:
        notes.append("The card has no measured numbers: give the folder of `aloe evaluate` with --results.")
    if origin.data_name is None:
        notes.append("The card does not say which images were used: name them with --data-name.")
    if not student.made_from:
        notes.append("The card does not link to the teacher: give its hub id with --base-model.")
    if not student.run:
        notes.append("The folder has no run.json: the card has no settings of the training.")
    if origin.licence.custom:
        notes.append(
            f"{origin.licence.id} is a licence of its own: add its text to the repository where it asks for that."
        )
    return notes


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
