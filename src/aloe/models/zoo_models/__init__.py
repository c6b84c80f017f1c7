"""The models that this project made and ships, by name: `zoo:scenes-aloe` wherever a model is named.

Each lies in a folder of transformers' format with its card, README.md. The prefix keeps the names apart from hub ids, and a
file or folder of that very name on disk comes first.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from aloe.core.errors import UserError
from aloe.core.files import expanded
from aloe.core.names import chosen, meant

PREFIX = "zoo:"


@dataclass(frozen=True)
class ZooModel:
    """One shipped model: its name, the folder under the package, the teacher of a student, what it knows, and whether that
    teacher is shipped as well."""

    name: str
    place: str
    teacher: str | None
    about: str
    teacher_is_here: bool = True

    @property
    def id(self) -> str:
        """What to type: `zoo:NAME`."""
        return PREFIX + self.name

    @property
    def folder(self) -> Path:
        """Where its files lie."""
        return Path(str(resources.files("aloe"))) / self.place

    @property
    def card(self) -> Path:
        """What it was made of and what was measured."""
        return self.folder / "README.md"

    @property
    def megabytes(self) -> float:
        """Size of its weights, in 10^6 bytes."""
        return (self.folder / "model.safetensors").stat().st_size / 1e6


PHOTOS = f"{PREFIX}photos-aloe"
"""The student of photographs, which needs no training and knows things that people take pictures of."""

ZOO = (
    ZooModel(
        "photos-aloe",
        "models/zoo_models/photos-aloe",
        "vits11",
        "111 kinds of things on photographs, 168 px; a DINOv2-small's student, aligned without labels",
        teacher_is_here=False,
    ),
    ZooModel("scenes-vit", "data/scenes/teacher", None, "ten kinds of rendered objects, 64 px"),
    ZooModel("scenes-aloe", "models/zoo_models/scenes-aloe", "scenes-vit", "its student, aligned without labels"),
    ZooModel(
        "scenes-conv-aloe",
        "models/zoo_models/scenes-conv-aloe",
        "scenes-vit",
        "a student with a convolutional stem, whose maps hardly show the patches",
    ),
    ZooModel("cifar10-vit", "models/zoo_models/cifar10-vit", None, "CIFAR-10's ten classes, 32 px"),
    ZooModel("cifar10-aloe", "models/zoo_models/cifar10-aloe", "cifar10-vit", "its student, aligned without labels"),
)


def locate(source: str | Path) -> str:
    """The folder of a model that is named `zoo:NAME`; any other source, and whatever exists on disk, as it is.

    Raises:
        UserError: the zoo has no model of that name.
    """
    name = str(source).strip()
    if name.startswith("~"):
        name = str(expanded(name))
    if not name.startswith(PREFIX) or Path(name).exists():
        return name
    return str(zoo_model(name).folder)


def zoo_model(name: str) -> ZooModel:
    """A model by its name, with or without the prefix.

    Raises:
        UserError: there is none of that name.
    """
    by_name = {m.name: m for m in ZOO}
    key = chosen(name.strip().removeprefix(PREFIX), by_name)
    if key is None:
        raise UserError(
            f"The zoo has no model {name!r}{meant(PREFIX + name.removeprefix(PREFIX), [m.id for m in ZOO], 'models')}"
        )
    return by_name[key]
