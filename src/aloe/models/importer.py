"""The one importer of checkpoints: a table of rules says how each tensor of a model is made, `import_tensors` makes them.

Three kinds of layout are read so: transformers' towers into students (`convert.py`, tables in `families.py`), timm's state
dicts into transformers' towers (`timm.py`), and the authors' published checkpoints into students (`published.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from aloe.core.errors import UserError
from aloe.models.headers import check_header, weight_files
from aloe.models.rules import Rule, among, make, renamed, sources_of


@dataclass(frozen=True)
class Tower:
    """A vision tower of transformers with what its checkpoint says of its use, as for `Teacher`.

    `other_head` is the checkpoint's classifier, in words, if it has one that does not read the pooled output alone.
    """

    model: nn.Module
    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resolution: int | None
    unread: tuple[str, ...]
    other_head: str = ""


@dataclass
class Imported:
    """Tensors under the model's names, the rule each was made by, and the checkpoint's names that no rule read."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    rules: dict[str, Rule] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)


def import_tensors(
    model: Mapping[str, Tensor],
    rules: Mapping[str, Rule],
    source: Mapping[str, Tensor],
    where: str,
    layout: str,
    unread: Collection[str] | None = (),
) -> Imported:
    """Make a model's tensors from those of a checkpoint; a tensor without a rule is not made.

    Args:
        model: the model's own tensors, of which only the shapes count.
        where, layout: what to call the checkpoint and its layout in errors.
        unread: first parts of the names of tensors that may be left over; None: any may.

    Raises:
        UserError: a tensor of the checkpoint that is missing, left over or of another shape.
    """
    result = Imported()
    used: set[str] = set()
    for name, like in model.items():
        if name not in rules:
            continue
        rule = among(rules[name], source)
        names = sources_of(rule)
        if absent := [n for n in names if n not in source]:
            raise UserError(f"{where}: tensor {absent[0]!r} of {layout} is missing.")
        result.tensors[name] = _fitting(rule, name, like, {n: source[n] for n in names}, where)
        result.rules[name] = rule
        used.update(names)
    result.left = [name for name in source if name not in used]
    strange = sorted(name for name in result.left if unread is not None and name.split(".")[0] not in unread)
    if strange:
        raise UserError(f"{where}: {len(strange)} tensors are no part of {layout}, first {strange[0]!r}.")
    return result


def written_out(table: Mapping[str, Rule], **counts: int) -> dict[str, Rule]:
    """A table with its blocks written out: for `i=12` each row with `{i}` becomes twelve."""
    rules: dict[str, Rule] = {}
    for name, rule in table.items():
        mark = next((f"{{{letter}}}" for letter in counts if f"{{{letter}}}" in name), "{}")
        for n in range(counts.get(mark[1:-1], 1)):
            rules[name.replace(mark, str(n))] = renamed(rule, mark, str(n))
    return rules


def translated(name: str, aliases: Iterable[tuple[str, str]]) -> str:
    """A tensor's name in a table's layout, from (fragment of another layout, the table's) pairs."""
    for other, ours in aliases:
        name = name.replace(other, ours)
    return name


def read_tensors(place: str | Path, where: str) -> dict[str, Tensor]:
    """Every tensor of a safetensors file, or of those of a folder or hub id.

    Raises:
        UserError: none there, truncated or unreadable, a tensor in two files or of other than floating-point numbers.
    """
    from safetensors import SafetensorError, safe_open

    tensors: dict[str, Tensor] = {}
    files = _files(place, where)
    try:
        with ExitStack() as stack:
            for file in files:
                opened: Any = stack.enter_context(safe_open(file, framework="pt"))
                for key in opened.keys():  # noqa: SIM118  (not a dictionary)
                    if key in tensors:
                        raise UserError(f"{where}: tensor {key!r} is in two files.")
                    tensors[key] = opened.get_tensor(key)
                    if not tensors[key].is_floating_point():
                        raise UserError(f"{where}: {key!r} holds {tensors[key].dtype}, not floating-point numbers.")
    except SafetensorError as error:
        raise UserError(f"{where}: the safetensors file is truncated or corrupt ({error}); fetch it again.") from error
    except OSError as error:
        raise UserError(f"{where} cannot be read: {error}.") from error
    return tensors


def _files(place: str | Path, where: str) -> list[Path]:
    if Path(place).is_file():
        check_header(Path(place))
        return [Path(place)]
    files = weight_files(str(place))
    if not files:
        raise UserError(f"{where} has no model.safetensors; only safetensors are loaded, never pickled weights.")
    return files


def _fitting(rule: Rule, name: str, like: Tensor, parts: dict[str, Tensor], where: str) -> Tensor:
    """The tensor in the model's shape, from which it may differ by axes of length 1."""
    with suppress(RuntimeError, IndexError, ValueError):
        tensor = make(rule, list(parts.values()), like)
        if [n for n in tensor.shape if n != 1] == [n for n in like.shape if n != 1]:
            return tensor.reshape(like.shape).contiguous()
    first, part = next(iter(parts.items()))
    raise UserError(
        f"{where}: {first!r} has shape {tuple(part.shape)}, from which {name} of shape {tuple(like.shape)} cannot be made."
    )
