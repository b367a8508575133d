"""`python -m tests.gpu.bare_environment ...` runs `python -m tests.gpu ...` where only torch, transformers, numpy,
soundfile, Triton and what these require can be imported.
"""

import re
import runpy
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from types import ModuleType

ROOTS = ("torch", "transformers", "numpy", "soundfile", "triton")


class RequiredFinder(PathFinder):
    """Finds modules as Python does, except those of libraries that ROOTS do not require."""

    hidden: frozenset[str] = frozenset()

    @classmethod
    def find_spec(
        cls, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module's spec; None if it is hidden."""
        return None if fullname.partition(".")[0] in cls.hidden else super().find_spec(fullname, path, target)


def hide_other_libraries() -> None:
    """Let imports find this tree and what ROOTS require, and nothing else that is installed."""
    present = _find_required(ROOTS)
    own = {"musicgen", "actors", "flows", "tests"}  # importable from the working folder, installed or not
    others = {
        name
        for name, distributions in packages_distributions().items()
        if name not in own and present.isdisjoint(map(_canonical, distributions))
    }
    # Some releases of transformers bring pydantic along, and older ones do not.
    RequiredFinder.hidden = frozenset(others | {"pydantic"})
    sys.meta_path[sys.meta_path.index(PathFinder)] = RequiredFinder


def _find_required(roots: Sequence[str]) -> set[str]:
    """The distributions that `roots` require, by canonical name, roots included; without extras."""
    found: set[str] = set()
    waiting = list(roots)
    while waiting:
        name = _canonical(waiting.pop())
        if name in found:
            continue
        found.add(name)
        try:
            requirements = requires(name) or []
        except PackageNotFoundError:  # of another platform
            continue
        waiting += [re.split(r"[\s;<>=!~\[(]", line)[0] for line in requirements if "extra ==" not in line]
    return found


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    hide_other_libraries()
    sys.argv[0] = "tests.gpu"
    runpy.run_module("tests.gpu", run_name="__main__")
