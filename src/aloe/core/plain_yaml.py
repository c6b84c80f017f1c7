"""YAML as settings need it: plain values, each key once, numbers in Western decimal digits, nothing that stands for another.

YAML 1.1 also has `&a`/`*a`, by which a few lines stand for billions of words, and reads 1_0, 0x10, 010 and 1:30 as numbers.
"""

from __future__ import annotations

from typing import Any

import yaml

from aloe.core.typed import first_twice, number


class PlainLoader(yaml.SafeLoader):
    """`yaml.SafeLoader` without aliases, keys that come twice, and numbers that are written otherwise."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            raise yaml.YAMLError(f"*{event.anchor} stands for something else; write out what it stands for")
        return super().compose_node(parent, index)  # type: ignore[no-untyped-call]

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if (twice := first_twice(names)) is not None:
            raise yaml.YAMLError(f"{twice} is given twice; leave one out")
        if not all(isinstance(key, yaml.ScalarNode) for key, _ in node.value):
            raise yaml.YAMLError("a key is not a word")
        return super().construct_mapping(node, deep)  # type: ignore[no-any-return, no-untyped-call]


def _plain(loader: Any, node: Any, kind: Any) -> Any:
    text = str(node.value)
    plain = text.lstrip("+-")
    special = plain.lower() in (".inf", ".nan")  # the settings refuse them by name
    if special:
        return loader.construct_yaml_float(node)
    if number(text) is None or (kind is int and len(plain) > 1 and plain.startswith("0")):
        raise yaml.YAMLError(f"{text[:40]} is no number in decimal digits")
    return kind(text)


def _refused(_loader: Any, node: Any) -> Any:
    raise yaml.YAMLError(f"no setting is of the kind {str(node.tag).rpartition(':')[2]}")


PlainLoader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: _plain(loader, node, int))
PlainLoader.add_constructor("tag:yaml.org,2002:float", lambda loader, node: _plain(loader, node, float))
for kind in ("set", "omap", "pairs", "binary"):  # which no setting is
    PlainLoader.add_constructor(f"tag:yaml.org,2002:{kind}", _refused)


def load(text: str) -> Any:
    """The value of a YAML text.

    Raises:
        yaml.YAMLError, RecursionError: it is none, or not plain. ValueError: a date that there is not.
    """
    return yaml.load(text, PlainLoader)
