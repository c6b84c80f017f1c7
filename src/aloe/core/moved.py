"""Former names of modules: `import aloe.probes.knn` gives `aloe.evaluation.knn`, with a `DeprecationWarning`."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "aloe.alignment": "aloe.train.align",
    "aloe.app": "aloe.apps.explorer",
    "aloe.bench": "aloe.apps.bench",
    "aloe.checked": "aloe.core.settings",
    "aloe.demo": "aloe.apps.demo",
    "aloe.dense": "aloe.evaluation.dense",
    "aloe.dense.frames": "aloe.data.frames.named",
    "aloe.dense.geometry": "aloe.data.frames.geometry",
    "aloe.dense.matching_settings": "aloe.data.frames.pair_settings",
    "aloe.dense.sources": "aloe.data.frames",
    "aloe.errors": "aloe.core.errors",
    "aloe.export": "aloe.apps.export",
    "aloe.finetuning": "aloe.train.finetune",
    "aloe.finetuning.losses": "aloe.bcos.losses",
    "aloe.grounding": "aloe.apps.grounding",
    "aloe.probes": "aloe.evaluation",
    "aloe.probes.dense": "aloe.evaluation.dense.tasks",
    "aloe.publish": "aloe.apps.publish",
    "aloe.study": "aloe.apps.study",
    "aloe.sweeps": "aloe.apps.sweep",
    "aloe.train.finetune.losses": "aloe.bcos.losses",
    "aloe.training": "aloe.train",
    "aloe.viz": "aloe.draw",
}


def new_name(name: str) -> str | None:
    """The present name of a module, or None for one that did not move."""
    if not name.startswith("aloe."):
        return None
    for old in sorted(MOVED, key=len, reverse=True):
        if name == old or name.startswith(f"{old}."):
            return MOVED[old] + name.removeprefix(old)
    return None


class _Moved(MetaPathFinder, Loader):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self, is_package=True) if new_name(fullname) else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        present = new_name(spec.name) or spec.name
        warnings.warn(f"{spec.name} is now {present}.", DeprecationWarning, stacklevel=2)
        module = import_module(present)
        self._own_spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Keep what the module says of itself; it has run under its present name."""
        module.__spec__ = self._own_spec


def install() -> None:
    """Let the former names be imported."""
    if not any(isinstance(finder, _Moved) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Moved())  # first: the files of a moved package must not be loaded a second time
