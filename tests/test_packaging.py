"""What an installation gets: versions that fit together, and wheels that work outside the source tree."""

import os
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NOT_PINNED = {"demucs", "musicgen-batch"}  # demucs is in no environment that make builds


def _constraints() -> Iterator[tuple[str, str]]:
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            name, _, version = line.partition("==")
            yield canonicalize_name(name), version


def test_constraints_are_plain_pins_that_any_index_can_serve() -> None:
    pins = list(_constraints())
    assert len(pins) == len(dict(pins)) > 100
    for name, version in pins:
        assert version, name
        assert not set(version) & set("+@/ "), f"{name}=={version}"


def test_constraints_lie_in_the_ranges_of_the_project() -> None:
    pins = dict(_constraints())
    extras = PROJECT["optional-dependencies"].values()
    for text in [*PROJECT["dependencies"], *(text for extra in extras for text in extra)]:
        requirement = Requirement(text)
        name = canonicalize_name(requirement.name)
        if name not in NOT_PINNED:
            assert requirement.specifier.contains(pins[name]), f"{text}: constraints.txt has {pins[name]}"


def test_configs_lie_inside_the_package() -> None:
    assert (ROOT / "musicgen" / "configs").resolve() == ROOT / "configs"


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel and the sdist of the tree; the wheel is built from the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    _run(sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT), cwd=folder)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory, distributions: tuple[Path, Path]) -> Path:
    """The `bin` folder of a new environment that has the dependencies, but not the package itself."""
    folder = tmp_path_factory.mktemp("venv")
    _run(sys.executable, "-m", "venv", str(folder), cwd=folder)
    wheel, _ = distributions
    _install(folder / "bin", "-c", str(ROOT / "constraints.txt"), f"{wheel}[datasets,listen]")
    _run(str(folder / "bin" / "python"), "-m", "pip", "uninstall", "--quiet", "--yes", "musicgen-batch", cwd=folder)
    return folder / "bin"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_wheel_has_the_configs_and_no_other_top_level(distributions: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(distributions[0]) as wheel:
        names = set(wheel.namelist())
    shipped = {f"musicgen/configs/{file.relative_to(ROOT / 'configs').as_posix()}" for file in _config_files()}
    assert shipped <= names
    assert "musicgen/model/decoder/kernels/kernels.cpp" in names
    assert "musicgen/embedded/checkpoint/model.safetensors" in names
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"musicgen", "actors", "flows"}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_the_demo_runs_outside_the_tree(
    kind: str, distributions: tuple[Path, Path], venv: Path, tmp_path: Path
) -> None:
    """The commands of `make demo`, in an empty folder."""
    wheel, sdist = distributions
    _install(venv, "--no-deps", "--force-reinstall", str(wheel if kind == "wheel" else sdist))
    musicgen = str(venv / "musicgen")
    assert _run(musicgen, "--version", cwd=tmp_path).split() == ["musicgen", PROJECT["version"]]
    demo = [line.strip() for line in (ROOT / "Makefile").read_text().splitlines() if "@$(BIN)/musicgen" in line]
    assert len(demo) == 2
    for line in demo:
        _run(musicgen, *line.split()[1:], cwd=tmp_path)
    assert len(list((tmp_path / "out/demo/audio").rglob("*.flac"))) == 8
    assert (tmp_path / "out/demo/listen.html").exists()
    _run(musicgen, "verify", "out/demo", "--deep", cwd=tmp_path)


def _config_files() -> list[Path]:
    return [file for file in (ROOT / "configs").rglob("*") if file.suffix in (".yaml", ".csv", ".flac")]


def _install(binaries: Path, *args: str) -> None:
    command = [str(binaries / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *args]
    _run(*command, cwd=binaries)


def _run(*command: str, cwd: Path) -> str:
    """Run a command without a trace of the source tree in its environment; return its output."""
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "RAY_ADDRESS")}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout
