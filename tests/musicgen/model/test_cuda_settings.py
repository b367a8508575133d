"""The settings that make CUDA's libraries deterministic, and the versions that a fingerprint names."""

import os
from pathlib import Path

import pytest
import torch

from musicgen.model import cuda_settings
from musicgen.model.cuda_settings import cuda_versions, make_cuda_deterministic


def test_deterministic_kernels_without_tf32_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    for module, name, value in (
        (cudnn, "deterministic", False),
        (cudnn, "benchmark", True),
        (cudnn, "allow_tf32", True),
    ):
        monkeypatch.setattr(module, name, value)
    make_cuda_deterministic()
    assert cudnn.deterministic
    assert not cudnn.benchmark
    assert not cudnn.allow_tf32
    assert not matmul.allow_tf32
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    make_cuda_deterministic()
    assert cuda_versions()["cublas_workspace"] == ":16:8", "the user's own"


def test_the_driver_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "version"
    monkeypatch.setattr(cuda_settings, "_DRIVER", path)
    assert cuda_versions()["driver"] == ""
    path.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\n")
    assert cuda_versions()["driver"] == "550.54.15"
