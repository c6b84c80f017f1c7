"""`aloe ground IMAGE --model ... --prompt ...`: where in the image each word of an answer comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from aloe.cli.common import Device, Json, OutputDir, quiet_libraries, say, table
from aloe.cli.flags import plan_flags
from aloe.core.devices import choose_device


@plan_flags("aloe.apps.grounding.settings:GroundSettings")
def ground(
    image: Annotated[Path, typer.Argument(help="The picture.")],
    model: Annotated[str, typer.Option("--model", "-m", help="LLaVA model: folder or hub id.")],
    prompt: Annotated[str, typer.Option(help="The question; with <image> in it, the whole prompt as it stands.")],
    output_dir: OutputDir,
    *,
    plan: dict[str, Any],
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
    from aloe.apps.grounding.settings import GroundSettings
    from aloe.core.errors import UserError
    from aloe.core.typed import words as words_of

    asked = GroundSettings.of(**plan)
    kinds = {None: None, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if asked.precision not in kinds:
        raise UserError(f"--precision is float32, bfloat16 or float16, got {asked.precision!r}.")
    wanted = None if asked.words is None else words_of(asked.words, "--words")
    picture = open_image(image)
    loaded = load_vision_language(model, vision=asked.vision, tower=asked.tower, dtype=kinds[asked.precision])
    loaded = loaded.to(choose_device(device))
    how = {"words": wanted, "limit": asked.max_new_tokens, **asked.model_dump(include={"answer", "against", "variant"})}
    grounding = run(loaded, picture, prompt, **how)
    numbers = write_grounding(grounding, output_dir)
    header = ("word", "value", "pixels", "prompt", "answer", "constants", "rest", "image %")
    rows = [
        (w.span.text, w.value, w.image, w.prompt, w.before, w.constants, w.rest, round(100 * w.image_share, 1))
        for w in grounding.words
    ]
    text = [
        grounding.answer,
        table(rows, header),
        f"{len(rows)} pictures, index.html and grounding.json in {output_dir}",
    ]
    if grounding.student:
        text.insert(0, f"student: {grounding.student}")
    say({**numbers, "output_dir": str(output_dir)}, "\n".join(text), json)
