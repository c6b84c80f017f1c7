"""What the scripts beside the package import from it is there: they run for hours, and no other test starts them all."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

from places import ROOT

SCRIPTS = sorted(p for folder in ("benchmarks", "examples", "scripts") for p in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_is_imported_is_there(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "aloe":
            module = importlib.import_module(str(node.module))
            for name in node.names:
                if not hasattr(module, name.name):
                    importlib.import_module(f"{node.module}.{name.name}")
