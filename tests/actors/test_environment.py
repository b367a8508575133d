"""What tells one version of our code from another."""

import os
from pathlib import Path

import pytest

from actors import environment


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package whose `configs` is a link, as in the source tree."""
    package = tmp_path / "package"
    (package / "__pycache__").mkdir(parents=True)
    (package / "code.py").write_text("a = 1")
    (package / "__pycache__" / "code.pyc").write_bytes(b"1")
    (tmp_path / "configs" / "models").mkdir(parents=True)
    (tmp_path / "configs" / "models" / "small.yaml").write_text("name: small")
    (package / "configs").symlink_to("../configs")
    monkeypatch.setattr(environment, "find_package_folders", lambda: [package])
    return package


@pytest.mark.parametrize("file", ["code.py", "configs/models/small.yaml"])
def test_a_change_of_code_or_configs_changes_the_hash(package: Path, file: str) -> None:
    before = environment._hash_own_code()
    (package / file).write_text("changed")
    assert environment._hash_own_code() != before


def test_a_link_and_a_copy_of_the_configs_have_one_hash(package: Path) -> None:
    before = environment._hash_own_code()
    (package / "configs").unlink()
    os.rename(package.parent / "configs", package / "configs")
    (package / "__pycache__" / "code.pyc").write_bytes(b"2")
    assert environment._hash_own_code() == before


def test_the_configs_of_the_package_count() -> None:
    (musicgen,) = (folder for folder in environment.find_package_folders() if folder.name == "musicgen")
    names = {name for name, _ in environment._find_code_files(musicgen)}
    assert {"configs/models/embedded.yaml", "configs/jobs/demo.yaml", "model/decoder/kernels/kernels.cpp"} <= names
