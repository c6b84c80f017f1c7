"""Explain the images of a source and write one PNG for each: input | colour explanation | signed map; or, for texts, the
input and for each text its logit, colour explanation and signed map (zero-shot explanations, the paper's Figure C1)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aloe.attribution.inherent import Explanation, explain
from aloe.attribution.made import Made, Written, open_limited, owner_of
from aloe.attribution.records import Row, image_bytes
from aloe.attribution.targets import TextTarget
from aloe.core.errors import UserError
from aloe.core.torch_state import check_fast, matrix_products
from aloe.data.sources import left_out
from aloe.draw.explanations import over_white, signed_map
from aloe.draw.gallery import row, stack
from aloe.models.saving import load
from aloe.models.unwrap import unwrapped

RECORD_NAME = "explanations.json"

PRODUCTS = {"float32": "highest", "bf16": "medium"}
"""Precisions of explanations, and how `matrix_products` calls them."""

PANEL = 224
"""Pixels of a panel of a small image; panels of larger ones show every pixel."""


def explain_files(
    model: str | Path | torch.nn.Module,
    images: str | Path | Sequence[str | Path],
    output_dir: Path,
    *,
    target: str | None = None,
    texts: Mapping[str, TextTarget] | None = None,
    resolution: int | None = None,
    limit: int | None = None,
    batch_size: int = 16,
    device: str = "cpu",
    precision: str = "float32",
    progress: bool = True,
    name: str | None = None,
) -> Written:
    """Write a picture `<stem>_explained.png` for every image of a source, and `explanations.json` with the model and every
    row; run again with the same model, settings and versions, what is there of the same image is not made again.

    Args:
        model: folder or hub id of a student, or the student itself. name: what to call it in pictures; default: by where it
            lies.
        target: a class; default: the predicted one.
        precision: float32; or bf16, whose matrix products are of bfloat16 and add up in float32, said in every row.
        texts: what to explain instead, each under its own words; the prediction is then the text of the highest logit.

    Raises:
        UserError: no student there, no images, none of them readable, an unknown target, a folder that cannot be written,
            that belongs to the images or that holds something else, a precision that the device is slow at.
    """
    low = _checked(precision, device)
    one = partial(_explained, PRODUCTS[precision], batch_size)
    student: Any = load(model) if isinstance(model, str | Path) else unwrapped(model)
    student.to(device)
    source = open_limited(images, limit, batch_size)
    side = student.side(resolution)
    record, called = output_dir / RECORD_NAME, name or (Path(model).name if isinstance(model, str | Path) else "")
    owner = owner_of(student, called, source, record, "explanations", images)
    title = owner["model"]
    meant = {k: [t.embedding.flatten().tolist(), float(t.scale), float(t.bias)] for k, t in (texts or {}).items()}
    settings = {"target": target, "texts": meant, "side": side}
    folder = Made.of(record, "explanations", owner, source, ("explained",), {**settings, **low}, student)

    def explained(pixels: Tensor, files: list[Row], numbers_of: list[int]) -> list[Row]:
        if texts:
            by_text = {text: one(student, pixels, goal) for text, goal in texts.items()}
            numbers, sheets = text_rows(by_text), text_pictures(pixels, by_text, title)
        else:
            explanation = one(student, pixels, target)
            numbers = rows(explanation, student)
            words = [f"{target or seen(n, student) or 'feature'}: {n['logit']:.2f}" for n in numbers]
            sheets = pictures(pixels, explanation, words, title)
        asked = {**low} if target is None else {**low, "target": target}  # what logit and residual are of
        return [
            folder.save(number, {"explained": picture}, {**file, **asked, **values})
            for number, picture, file, values in zip(numbers_of, sheets, files, numbers, strict=True)
        ]

    done = Written(left_out=left_out(source))
    bar = "explaining" if progress else None
    folder.over(source, explained, done, side=side, batch_size=batch_size, device=device, title=bar)
    done.rows = [{k: v for k, v in row.items() if k != "image"} for row in done.rows]
    return done


def _checked(precision: str, device: str) -> dict[str, str]:
    """What rows and pictures say of a precision; raises UserError for an unknown or a slow one."""
    if precision not in PRODUCTS:
        raise UserError(f"There is no precision {precision!r} of explanations; precisions: {', '.join(PRODUCTS)}.")
    check_fast(precision, device)
    return {} if precision == "float32" else {"precision": precision}


def _explained(products: str, batch_size: int, student: Any, pixels: Tensor, target: Any) -> Explanation:
    with matrix_products(products, pixels.device.type):
        return explain(student, pixels, target, batch_size=batch_size)


def pictures(images: Tensor, explanation: Explanation, titles: Sequence[str], model: str = "") -> Iterator[Any]:
    """One row picture per image: the input and its title, the colour explanation over white under the model's name, the
    signed contributions."""
    colours = over_white(explanation.to_rgba()).cpu().numpy()
    signed = signed_map(explanation.contributions).cpu().numpy()
    for image, colour, sign, title in zip(image_bytes(images), colours, signed, titles, strict=True):
        yield row(
            [image, colour, sign],
            [title, f"W(x) of {model}" if model else "W(x), colour explanation", "contributions, red adds"],
            side=max(PANEL, len(image)),
        )


def text_pictures(images: Tensor, by_text: Mapping[str, Explanation], model: str = "") -> Iterator[Any]:
    """Two lines per image: the input and each text's colour explanation, then each text's signed contributions and logit.

    The signed maps of an image share one scale, so that what a text adds or takes away can be compared.
    """
    colours = [over_white(explanation.to_rgba()).cpu().numpy() for explanation in by_text.values()]
    beside = torch.cat([explanation.contributions for explanation in by_text.values()], dim=1)
    signed = signed_map(beside).unflatten(1, (len(by_text), -1)).cpu().numpy()
    for i, (image, numbers) in enumerate(zip(image_bytes(images), text_rows(by_text), strict=True)):
        best = numbers["prediction"]
        logits = [f"logit {n['logit']:.1f}" + " (highest)" * (text == best) for text, n in numbers["texts"].items()]
        page = np.full_like(image, 255)
        side = max(PANEL, len(image))
        captions = [f"input to {model}" if model else "input", *by_text]
        first = row([image, *(colour[i] for colour in colours)], captions, side=side)
        yield stack([first, row([page, *signed[i]], ["red adds, blue takes away", *logits], side=side)])


def rows(explanation: Explanation, student: Any) -> list[dict[str, Any]]:
    """The numbers behind each picture: of a student with classes the predicted one and its probability, and whether that is
    enough to call the image one of them, where the classes can say so (`Backbone.by_sigmoids`)."""
    numbers = []
    chances = None if explanation.logits is None else student.probabilities(explanation.logits.float())
    for i in range(len(explanation)):
        values: dict[str, Any] = {}
        if explanation.prediction is not None and chances is not None:
            index = int(explanation.prediction[i])
            values["prediction"] = student.config.id2label.get(index, str(index))
            values["probability"] = float(chances[i, index])
            if student.by_sigmoids:
                values["known"] = student.knows(values["probability"])
        values["logit"] = float(explanation.logit[i])
        values["residual"] = float(explanation.residual[i])
        numbers.append(values)
    return numbers


def seen(row: Mapping[str, Any], student: Any) -> str:
    """What a student sees in an image, in words, from its row; "" of a student without classes."""
    if "prediction" not in row:
        return ""
    share = f"{row['prediction']} {row['probability']:.0%}"
    return share if row.get("known", True) else f"none of its {student.config.num_labels} classes"


def text_rows(by_text: Mapping[str, Explanation]) -> list[dict[str, Any]]:
    """The numbers behind each picture: the text of the highest logit, and of every text its logit, SigLIP's probability
    (the logit's sigmoid) and the residual of the constants."""
    numbers = []
    for i in range(len(next(iter(by_text.values())))):
        texts = {
            text: {
                "logit": float(explanation.logit[i]),
                "probability": float(explanation.logit[i].sigmoid()),
                "residual": float(explanation.residual[i]),
            }
            for text, explanation in by_text.items()
        }
        best = max(texts, key=lambda text: texts[text]["logit"])
        numbers.append({"prediction": best, **texts[best], "texts": texts})
    return numbers
