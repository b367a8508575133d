"""Python imports this in every process of the Ray nodes that fault tests start: actors get `NullEngine` for an engine.

Nothing else about them is changed: they read a real plan, fetch melodies and write to a real store.
"""

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

_PATCHED = "actors.generator"


class _GeneratorFinder(importlib.abc.MetaPathFinder):
    """Finds the generator's module as Python would, and replaces `load_engine` when it has run."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != _PATCHED:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_patch(module: ModuleType) -> None:
            execute(module)
            import null_engine

            module.load_engine = null_engine.load_null_engine  # type: ignore[attr-defined]

        spec.loader.exec_module = execute_and_patch  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, _GeneratorFinder())
