"""The versions of the code and libraries of a process, and whether an actor has the same ones as its driver."""

import hashlib
import os
import platform
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

from musicgen.dataset.run_report import package_versions
from musicgen.errors import JobError

PACKAGES = ("musicgen", "actors", "flows")
_CODE_SUFFIXES = frozenset({".py", ".cpp", ".h", ".yaml", ".csv", ".flac"})
_LIBRARIES = ("torch", "transformers", "numpy", "soundfile", "soxr", "librosa", "pyarrow", "ray")


@cache
def collect_versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that decide bits or formats, and a hash of our own code."""
    installed = package_versions(_LIBRARIES)
    libraries = {library: installed.get(library, "missing") for library in _LIBRARIES}
    return {"python": ".".join(platform.python_version_tuple()[:2]), **libraries, "code": _hash_own_code()}


def check_versions(driver_versions: dict[str, str], host: str) -> None:
    """Raise `JobError` if this process, on `host`, has other versions than its driver.

    Builds of one version (+cpu, +cu126) count as equal.
    """
    own_versions = collect_versions()
    differences = [
        f"{name} {own_versions.get(name, 'missing')} (driver: {driver_version})"
        for name, driver_version in driver_versions.items()
        if own_versions.get(name, "missing").partition("+")[0] != driver_version.partition("+")[0]
    ]
    if differences:
        raise JobError(
            f"the worker on {host} does not match the driver: {', '.join(differences)}; use one image or environment "
            "for both"
        )


def find_package_folders() -> list[Path]:
    """Return the folders from which our packages were imported."""
    return [Path(next(iter(import_module(name).__path__))) for name in PACKAGES]


def _hash_own_code() -> str:
    digest = hashlib.sha256()
    for package in find_package_folders():
        for name, file in sorted(_find_code_files(package)):
            digest.update(f"{package.name}/{name}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def _find_code_files(package: Path) -> Iterator[tuple[str, Path]]:
    """Yield the files that tell one version of a package from another, each with its path inside the package.

    Python, kernels and the data of `configs/`. The weights have an identity of their own.
    """
    for folder, _, names in os.walk(package, followlinks=True):  # `configs` is a link in the source tree
        for file in (Path(folder, name) for name in names):
            if file.suffix in _CODE_SUFFIXES:
                yield file.relative_to(package).as_posix(), file
