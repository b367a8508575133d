"""What an actor computes with, and whether that is what the driver planned with."""

import hashlib
import platform
from functools import cache
from importlib import import_module
from pathlib import Path

from musicgen.dataset.run_report import package_versions
from musicgen.errors import JobError

PACKAGES = ("musicgen", "actors", "flows", "configs")
_LIBRARIES = ("torch", "transformers", "numpy", "soundfile", "soxr", "librosa", "pyarrow", "ray")


@cache
def versions() -> dict[str, str]:
    """Python, the libraries that decide bits or formats, and a hash of our own code."""
    installed = package_versions(_LIBRARIES)
    libraries = {library: installed.get(library, "missing") for library in _LIBRARIES}
    return {"python": ".".join(platform.python_version_tuple()[:2]), **libraries, "code": _code()}


def check_versions(driver: dict[str, str], where: str) -> None:
    """Raise `JobError` if this process differs from the driver. Builds of one version (+cpu, +cu126) are equal."""
    ours = versions()
    different = [
        f"{name} {ours.get(name, 'missing')} (driver: {wanted})"
        for name, wanted in driver.items()
        if ours.get(name, "missing").partition("+")[0] != wanted.partition("+")[0]
    ]
    if different:
        raise JobError(
            f"the worker on {where} does not match the driver: {', '.join(different)}; use one image or environment "
            "for both"
        )


def package_folders() -> list[Path]:
    """The folders of our packages, as they were imported."""
    return [Path(next(iter(import_module(name).__path__))) for name in PACKAGES]


def _code() -> str:
    digest = hashlib.sha256()
    for folder in package_folders():
        for file in sorted(folder.rglob("*.py")):
            digest.update(f"{folder.name}/{file.relative_to(folder).as_posix()}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:12]
