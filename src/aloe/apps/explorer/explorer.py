"""What the explorer knows between requests: models that were loaded once, and images made ready for them.

Nothing here knows of the page. A `Picture` holds an image as the models read it, cropped to the resolution of each; `view.py`
asks the models about it.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from aloe.attribution.methods import METHODS, attribute, check_options, find_method, unsupported
from aloe.core.errors import UserError
from aloe.data.decode import BROKEN, FORMATS, decode_image
from aloe.data.transforms import ResizeCenterCrop, to_tensor
from aloe.evaluation.backbones import load_any
from aloe.evaluation.results import describe
from aloe.models.backbone import Backbone
from aloe.models.saving import load
from aloe.models.stages import standing, title_of
from aloe.models.teachers import load_teacher
from aloe.models.text import TextTower, load_text_tower, text_tower_for
from aloe.models.zoo_models import PHOTOS

MAX_BYTES = 20 << 20  # of an uploaded file
MAX_PIXELS = 50_000_000  # of an uploaded image: what telephones take, and at most 0.5 GiB while it is decoded


@dataclass(frozen=True, eq=False)
class Entry:
    """A model of the explorer: its title, the side in pixels that it reads, and the text tower of its features, if any."""

    title: str
    model: Any
    side: int
    tower: TextTower | None = None

    @property
    def classes(self) -> list[str]:
        """The names of the logits; none without a classifier."""
        if getattr(self.model, "classifier", None) is None:
            return []
        count = len(next(self.model.classifier.parameters()))
        return [str(self.model.config.id2label.get(i, i)) for i in range(count)]

    @property
    def methods(self) -> list[str]:
        """Keys of the methods that can explain it."""
        return [key for key in METHODS if unsupported(self.model, key) is None]


@dataclass(frozen=True, eq=False)
class Picture:
    """An image as the models read it: the central square, by side in pixels. `size` is the (W, H) that it came with."""

    name: str
    size: tuple[int, int]
    crops: Mapping[int, Image.Image]

    def tensor(self, side: int) -> Tensor:
        """(1, 3, side, side) in [0, 1]."""
        return to_tensor(self.crops[side])[None]


class Explorer:
    """Models ready to answer, one question at a time (`lock`).

    Args:
        models: teachers and students by title.
        towers: text towers by the title of their model.
        options: of methods, by key (`aloe attribute --set`).
        device: where the models run.

    Raises:
        UserError: no models, or an option that a method has not.
    """

    def __init__(
        self,
        models: Mapping[str, Backbone],
        *,
        towers: Mapping[str, TextTower] | None = None,
        options: Mapping[str, Mapping[str, Any]] | None = None,
        device: str = "cpu",
    ) -> None:
        if not models:
            raise UserError("The explorer needs at least one model.")
        self.options = {key: check_options(find_method(key), values) for key, values in (options or {}).items()}
        towers = towers or {}
        self.entries = {
            title: Entry(title, model.to(device), model.side(), towers.get(title)) for title, model in models.items()
        }
        self.lock, self._decoding = threading.Lock(), threading.Lock()

    def standings(self) -> dict[str, str]:
        """What each model is, in one line, by title."""
        models = {title: entry.model for title, entry in self.entries.items()}
        return {t: standing(m.config.teacher) if m.interpretable else "teacher" for t, m in models.items()}

    @property
    def side(self) -> int:
        """The largest side in pixels that a model reads, at which images are shown."""
        return max(e.side for e in self.entries.values())

    @property
    def classes(self) -> list[str]:
        """The class names of all models, each once."""
        return list(dict.fromkeys(name for e in self.entries.values() for name in e.classes))

    def chosen(self, titles: Sequence[str]) -> list[Entry]:
        """Models by title, in their own order; titles that are none are left out."""
        return [e for e in self.entries.values() if e.title in titles]

    def warm_up(self) -> None:
        """One explanation of a grey image by every model, so that the first visitor does not wait for what loads late."""
        for entry in self.entries.values():
            fastest = "inherent" if "inherent" in entry.methods else "inputxgrad"
            with self.lock:
                attribute(entry.model, torch.full((1, 3, entry.side, entry.side), 0.5), None, fastest)

    def open(self, data: bytes | Path | Image.Image, name: str) -> Picture:
        """An image, decoded with the limits of an upload (but for one that was decoded before).

        Raises:
            UserError: more than `MAX_BYTES` or `MAX_PIXELS`, not an image, or a damaged one.
        """
        with self._decoding:  # one at a time: the memory of a large image is spent once
            if isinstance(data, bytes):
                _check_size(data, name)
            image = decode_image(data, name=name)
            sides = {e.side for e in self.entries.values()}
            return Picture(name, image.size, {side: ResizeCenterCrop(side)(image) for side in sides})


def load_models(
    names: Sequence[str], text_tower: str | None = None
) -> tuple[dict[str, Backbone], dict[str, TextTower]]:
    """Models by title, and the text towers that belong to them.

    Args:
        names: folders or hub ids of teachers, students and saved probes. None at all: `default_models`.
        text_tower: folder or hub id of the text tower of every model of its width. Where it is not given, a SigLIP teacher
            brings its own, and students made from a teacher that was named too share that.

    Raises:
        UserError: nothing there, or a text tower that fits none of the models.
    """
    by_name = {name: load_any(name) for name in names}
    models = _titled(by_name) if names else default_models()
    if text_tower is not None:
        given = load_text_tower(text_tower)
        towers = {t: given for t, m in models.items() if m.config.hidden_size == given.width}  # type: ignore[union-attr]
        if not towers:
            raise UserError(f"The text tower {text_tower} has width {given.width}, which none of the models has.")
        return models, towers
    own = {_teacher_name(m): tower for m in models.values() if (tower := _own_tower(m)) is not None}
    return models, {t: own[name] for t, m in models.items() if (name := _teacher_name(m)) in own}


def default_models() -> dict[str, Backbone]:
    """The zoo's student of photographs; where `aloe demo` has left its own in `demo-out`, that and its teacher."""
    student = Path("demo-out") / "student"
    if not (student / "model.safetensors").is_file():
        return _titled({PHOTOS: load(PHOTOS)})
    return _titled({"scenes teacher": load_teacher("zoo:scenes-vit"), "scenes": load(student)})


def default_images(models: Mapping[str, Backbone]) -> str:
    """What there is to look at where nothing was named: photographs, or what models of rendered scenes know."""
    if max(model.side() for model in models.values()) > 64:
        return str(resources.files("aloe.data") / "photographs")
    return "scenes:10@7"


def _titled(models: Mapping[str, Backbone]) -> dict[str, Backbone]:
    """By name and stage; by the whole path where two would be the same."""
    titled: dict[str, Backbone] = {}
    for name, model in models.items():
        stage = describe(name, model)["stage"]
        short = Path(name).name if Path(name).exists() else name
        words = short if stage in short.lower() else f"{short} ({title_of(stage)})"
        titled[words if words not in titled else f"{name} ({title_of(stage)})"] = model
    return titled


def _own_tower(model: Any) -> TextTower | None:
    """The text tower that lies beside a SigLIP teacher's image tower, if it is there with its tokenizer."""
    if model.interpretable or not model.config.model_type.startswith("siglip"):
        return None
    try:
        return text_tower_for(model)
    except UserError:
        return None


def _teacher_name(model: Any) -> str:
    return str((model.config.teacher or {}).get("name", "") if model.interpretable else model.title)


def _check_size(data: bytes, name: str) -> None:
    """Refuse what is too large from its header, before a pixel is decoded."""
    if len(data) > MAX_BYTES:
        raise UserError(f"{name} has {len(data) / 2**20:.1f} MiB; an image may have {MAX_BYTES >> 20} MiB.")
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
    except Image.DecompressionBombError:
        raise UserError(f"{name} has too many pixels; an image may have {MAX_PIXELS / 1e6:.0f} million.") from None
    except BROKEN:
        return  # `decode_image` says what is wrong
    if width * height > MAX_PIXELS:
        raise UserError(f"{name} has {width} x {height} pixels; an image may have {MAX_PIXELS / 1e6:.0f} million.")
