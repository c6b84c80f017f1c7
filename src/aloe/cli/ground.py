"""`aloe ground IMAGE --model ... --prompt ...`: where in the image each word of an answer comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aloe.cli.common import Device, Json, OutputDir, quiet_libraries, say, table
from aloe.core.bounds import MAX_COUNT
from aloe.core.devices import choose_device


def ground(
    image: Annotated[Path, typer.Argument(help="The picture.")],
    model: Annotated[str, typer.Option("--model", "-m", help="LLaVA model: folder or hub id.")],
    prompt: Annotated[str, typer.Option(help="The question; with <image> in it, the whole prompt as it stands.")],
    output_dir: OutputDir,
    vision: Annotated[
        str | None,
        typer.Option(help="Student aligned to the model's vision tower; default: AttnLRP through the tower."),
    ] = None,
    words: Annotated[
        str | None, typer.Option(help="Words or phrases of the answer, with commas; default: all words.")
    ] = None,
    answer: Annotated[str | None, typer.Option(help="The answer to ground; default: the model's own.")] = None,
    against: Annotated[
        str | None, typer.Option(help="Explain by how much the model prefers each word to this one.")
    ] = None,
    variant: Annotated[str, typer.Option(help="full, or cp, which conserves relevance.")] = "full",
    max_new_tokens: Annotated[int, typer.Option(min=1, max=MAX_COUNT, help="Tokens of the answer at most.")] = 64,
    tower: Annotated[
        str | None, typer.Option(help="Of a LLaVA-MORE checkpoint: its vision tower; default: the one it names.")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="Of the weights: float32, bfloat16 or float16; default: as stored.")
    ] = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Write the annotated sentence, a picture per word, index.html and grounding.json."""
    quiet_libraries()
    import torch

    from aloe.apps.grounding.ground import ground as run
    from aloe.apps.grounding.ground import open_image
    from aloe.apps.grounding.loading import load_vision_language
    from aloe.apps.grounding.page import write_grounding
    from aloe.core.errors import UserError
    from aloe.core.typed import words as words_of

    kinds = {None: None, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if precision not in kinds:
        raise UserError(f"--precision is float32, bfloat16 or float16, got {precision!r}.")
    wanted = None if words is None else words_of(words, "--words")
    picture = open_image(image)
    loaded = load_vision_language(model, vision=vision, tower=tower, dtype=kinds[precision]).to(choose_device(device))
    found = run(
        loaded,
        picture,
        prompt,
        answer=answer,
        words=wanted,
        against=against,
        variant=variant,
        limit=max_new_tokens,
    )
    numbers = write_grounding(found, output_dir)
    header = ("word", "value", "pixels", "prompt", "answer", "constants", "rest", "image %")
    rows = [
        (w.span.text, w.value, w.image, w.prompt, w.before, w.constants, w.rest, round(100 * w.image_share, 1))
        for w in found.words
    ]
    text = [found.answer, table(rows, header), f"{len(rows)} pictures, index.html and grounding.json in {output_dir}"]
    if found.student:
        text.insert(0, f"student: {found.student}")
    say({**numbers, "output_dir": str(output_dir)}, "\n".join(text), json)
