"""Compiled kernels are kept where only their user can write, loaded only whole, and built by many at once without harm.

The source here is one function, so that compiling takes a moment.
"""

import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from musicgen.errors import ModelError
from musicgen.model.checkpoint.identity import cache_folder
from musicgen.model.decoder import build
from musicgen.model.decoder.cpu_ops import load_library
from musicgen.model.processor import processor_flags

ROOT = Path(__file__).parents[3]
COMPILER = [shutil.which("g++") or ""]
pytestmark = pytest.mark.skipif(not COMPILER[0], reason="no g++")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "kernels.cpp").write_text('extern "C" int answer() { return 42; }')
    return folder


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in the user's cache."""
    monkeypatch.delenv("MUSICGEN_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / "cache" / "musicgen-batch" / "kernels"


@pytest.fixture
def second(tmp_path: Path) -> Path:
    """The folder that is tried after it."""
    return tmp_path / f"musicgen-batch-{os.getuid()}"


def content(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def test_it_is_compiled_once_and_by_a_command_with_arguments(
    source: Path, kept: Path, tmp_path: Path, second: Path
) -> None:
    counted = tmp_path / "counted"
    counted.write_text(f'#!/bin/sh\ncase "$*" in *-shared*) echo >> {tmp_path}/count;; esac\nexec "$@"\n')
    counted.chmod(0o755)
    for _ in range(2):
        assert build.compile_kernels(source, [str(counted), *COMPILER]).answer() == 42
    assert (tmp_path / "count").read_text() == "\n"
    (library,) = content(kept)
    assert stat.S_IMODE(kept.stat().st_mode) == 0o700
    assert stat.S_IMODE(library.stat().st_mode) == 0o600
    assert not second.exists()


@pytest.mark.parametrize("harm", ["empty", "cut", "one byte", "no library"])
def test_a_damaged_library_is_built_again(source: Path, kept: Path, harm: str) -> None:
    build.compile_kernels(source, COMPILER)
    (library,) = content(kept)
    good = bytearray(library.read_bytes())
    good[len(good) // 2] ^= 1
    bad = {"empty": b"", "cut": good[: len(good) // 2], "one byte": good, "no library": b"#!/bin/sh\n" * 100}[harm]
    library.unlink()  # it is loaded: its bytes are not to be changed under this process's feet
    library.write_bytes(bad)
    assert build.compile_kernels(source, COMPILER).answer() == 42
    assert build._is_intact(library)
    assert library.read_bytes() != bad


def test_a_whole_file_that_cannot_be_loaded_is_built_again(source: Path, kept: Path) -> None:
    kept.mkdir(parents=True, mode=0o700)
    library = kept / build._library_name(source, COMPILER)
    (kept.parent / "other").write_bytes(b"of another system")
    build._store_library(kept.parent / "other", library)
    assert build._is_intact(library)
    assert build.compile_kernels(source, COMPILER).answer() == 42


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_nothing_is_loaded_from_a_folder_that_others_can_write_to(
    source: Path, kept: Path, second: Path, mode: int
) -> None:
    kept.mkdir(parents=True)
    planted = kept / build._library_name(source, COMPILER)
    evil = kept.parent / "kernels.cpp"
    evil.write_text('extern "C" int answer() { return 13; }')
    build._store_library(build._run_compiler(kept.parent, COMPILER, kept.parent / "evil.so"), planted)
    kept.chmod(0o700)
    assert build.compile_kernels(source, COMPILER).answer() == 13, (
        "planted well: it is loaded as long as the folder is private"
    )
    kept.chmod(mode)
    assert build.compile_kernels(source, COMPILER).answer() == 42
    assert len(content(second)) == 1
    second.chmod(mode)  # nowhere at all: compiled for this process alone
    assert build.compile_kernels(source, COMPILER).answer() == 42
    kept.chmod(0o700)
    planted.chmod(0o666)
    before = planted.read_bytes()
    build.compile_kernels(source, COMPILER)
    assert planted.read_bytes() != before


def test_a_link_to_another_folder_is_not_followed(source: Path, kept: Path, second: Path, tmp_path: Path) -> None:
    kept.parent.mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    kept.symlink_to(tmp_path / "elsewhere")
    assert build.compile_kernels(source, COMPILER).answer() == 42
    assert content(tmp_path / "elsewhere") == []
    assert len(content(second)) == 1


def test_the_cache_folder_of_the_environment_is_used(
    source: Path, kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUSICGEN_CACHE", str(tmp_path / "elsewhere"))
    assert build.compile_kernels(source, COMPILER).answer() == 42
    assert len(content(tmp_path / "elsewhere" / "kernels")) == 1
    assert content(kept) == []


def test_a_user_without_a_home(source: Path, second: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as it answers for a uid that nobody knows
    assert build.compile_kernels(source, COMPILER).answer() == 42
    assert len(content(second)) == 1
    with pytest.raises(ModelError, match="MUSICGEN_CACHE"):
        cache_folder()


def test_processes_that_build_at_once_leave_one_library(source: Path, kept: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from musicgen.model.decoder import build; "
        f"sys.exit(build.compile_kernels(Path({str(source)!r}), {COMPILER!r}).answer() != 42)"
    )
    racers = [subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE) for _ in range(4)]
    for racer in racers:
        _, errors = racer.communicate(timeout=120)
        assert racer.returncode == 0, errors.decode()
    assert len(content(kept)) == 1


def test_the_compiler_of_the_environment_may_have_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    if isinstance(load_library(), str):
        pytest.skip("no compiled kernels")
    monkeypatch.setenv("CXX", f"env LANG=C {shlex.quote(COMPILER[0])}")
    assert not isinstance(load_library.__wrapped__(), str)


def test_the_c_library_is_part_of_a_librarys_name(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two images that share a home would otherwise replace each other's library at each start."""
    names = set()
    for version in ("2.31", "2.36"):
        monkeypatch.setattr(platform, "libc_ver", lambda version=version: ("glibc", version))
        names |= {build._library_name(source, COMPILER), build._library_name(source, COMPILER, build.PORTABLE[1])}
    assert len(names) == 4


V3 = {"avx2", "fma", "bmi1", "bmi2", "f16c", "abm", "movbe", "sse4_2"}
V4 = V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}


def test_the_portable_target_is_chosen_by_the_processor() -> None:
    assert build.choose_target(V4 | {"avx512_bf16"}) is build.PORTABLE[0]
    assert build.choose_target(V4) is build.choose_target(V3) is build.PORTABLE[1]
    assert build.choose_target(V3 - {"fma"}) is None


_LOAD = """
import torch
from musicgen.model.decoder.cpu_ops import CpuOps, load_library
library = load_library()
print(library if isinstance(library, str) else CpuOps(library, torch.float32, 1).name)
"""


@pytest.mark.slow
@pytest.mark.skipif(build.choose_target(processor_flags()) is None, reason="needs x86-64-v3")
def test_a_portable_build_serves_machines_without_a_compiler(tmp_path: Path) -> None:
    def load(**changes: str) -> str:
        env = os.environ | {"MUSICGEN_COMPILE": "portable", "MUSICGEN_CACHE": str(tmp_path), "TMPDIR": str(tmp_path)}
        command = [sys.executable, "-c", _LOAD]
        done = subprocess.run(
            command, env=env | changes, cwd=ROOT, capture_output=True, text=True, timeout=200, check=True
        )
        return done.stdout.strip()

    assert load(CXX="/no/compiler") == "no g++"
    name = load()
    assert name.startswith(("portable-avx512_bf16-r", "portable-avx2-r"))
    assert len(list((tmp_path / "kernels").iterdir())) == len(build.PORTABLE)
    assert load(CXX="/no/compiler") == name
    assert load(CXX="/no/compiler", MUSICGEN_COMPILE="1") == "no g++"
