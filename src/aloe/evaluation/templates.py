"""Prompts that a class name is put into: the paper's single one, the 80 of OpenCLIP, or a user's own.

The 80 are the ImageNet prompts of CLIP (Radford et al. 2021, section 3.1.4; published by OpenAI under the MIT licence) in the
wording that OpenCLIP ships. Like the single prompt of the paper's Table B3 they are constants of the protocol.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from aloe.core.errors import UserError
from aloe.core.files import expanded, parse_json, read_words

SINGLE = ("a photo of a {}",)
_OPENCLIP = """
    a bad photo of a {}. | a photo of many {}. | a sculpture of a {}. | a photo of the hard to see {}.
    a low resolution photo of the {}. | a rendering of a {}. | graffiti of a {}. | a bad photo of the {}.
    a cropped photo of the {}. | a tattoo of a {}. | the embroidered {}. | a photo of a hard to see {}.
    a bright photo of a {}. | a photo of a clean {}. | a photo of a dirty {}. | a dark photo of the {}.
    a drawing of a {}. | a photo of my {}. | the plastic {}. | a photo of the cool {}. | a close-up photo of a {}.
    a black and white photo of the {}. | a painting of the {}. | a painting of a {}. | a pixelated photo of the {}.
    a sculpture of the {}. | a bright photo of the {}. | a cropped photo of a {}. | a plastic {}.
    a photo of the dirty {}. | a jpeg corrupted photo of a {}. | a blurry photo of the {}. | a photo of the {}.
    a good photo of the {}. | a rendering of the {}. | a {} in a video game. | a photo of one {}.
    a doodle of a {}. | a close-up photo of the {}. | a photo of a {}. | the origami {}. | the {} in a video game.
    a sketch of a {}. | a doodle of the {}. | a origami {}. | a low resolution photo of a {}. | the toy {}.
    a rendition of the {}. | a photo of the clean {}. | a photo of a large {}. | a rendition of a {}.
    a photo of a nice {}. | a photo of a weird {}. | a blurry photo of a {}. | a cartoon {}. | art of a {}.
    a sketch of the {}. | a embroidered {}. | a pixelated photo of a {}. | itap of the {}.
    a jpeg corrupted photo of the {}. | a good photo of a {}. | a plushie {}. | a photo of the nice {}.
    a photo of the small {}. | a photo of the weird {}. | the cartoon {}. | art of the {}. | a drawing of the {}.
    a photo of the large {}. | a black and white photo of a {}. | the plushie {}. | a dark photo of a {}.
    itap of a {}. | graffiti of the {}. | a toy {}. | itap of my {}. | a photo of a cool {}.
    a photo of a small {}. | a tattoo of the {}.
"""  # one prompt between bars or line ends
OPENCLIP = tuple(prompt.strip() for line in _OPENCLIP.strip().splitlines() for prompt in line.split("|"))
TEMPLATES = {"single": SINGLE, "openclip": OPENCLIP}


def read_templates(spec: str | Path | Sequence[str]) -> tuple[str, ...]:
    """The prompts that `spec` stands for: "single", "openclip", a file (see `read_strings`), or the prompts themselves.

    Raises:
        UserError: no such name or file, no prompts, or one without exactly one place for the class name, `{}`.
    """
    if isinstance(spec, str | Path):
        preset = TEMPLATES.get(str(spec))
        if preset is None and not expanded(spec).is_file():
            raise UserError(
                f"There are no templates {str(spec)!r}; give single, openclip, or a file with one prompt per line."
            )
        prompts = preset or tuple(read_strings(spec))
    else:
        prompts = tuple(spec)
    if not prompts:
        raise UserError("There are no prompts; give at least one, such as 'a photo of a {}'.")
    for prompt in prompts:
        if prompt.count("{}") != 1:
            raise UserError(f"The prompt {prompt!r} must contain {{}} exactly once, where the class name goes.")
    return prompts


def fill(prompt: str, name: str) -> str:
    """A prompt with the class name in its place."""
    return prompt.replace("{}", name)


def read_strings(path: str | Path) -> list[str]:
    """Strings of a file: a JSON list, a JSON object of index -> string (0, 1, ... without gaps) or with one list among its
    values, or plain text with one per line, where empty lines do not count.

    Raises:
        UserError: no such file, or it holds something else.
    """
    file = expanded(path)
    text = read_words(file)
    if file.suffix != ".json":
        return [line.strip() for line in text.splitlines() if line.strip()]
    try:
        content = parse_json(text)
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}).") from error
    if isinstance(content, dict):
        lists = [value for value in content.values() if isinstance(value, list)]
        numbered = sorted(content) == sorted(map(str, range(len(content))))
        content = [content[str(i)] for i in range(len(content))] if numbered else lists[0] if len(lists) == 1 else None
    if not isinstance(content, list) or not all(isinstance(value, str) and value.strip() for value in content):
        raise UserError(
            f"{path} holds no list of strings; give a JSON list, a JSON object of index -> name, or plain lines."
        )
    return content
