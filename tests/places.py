"""Where the repository, its tests and the shared data lie."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).parent
ROOT = TESTS.parent
SHARED = ROOT.parent / "shared"
DATA = SHARED / "data"
