"""What makes CUDA's libraries compute the same bits each time, and the versions that the bits depend on."""

import os
import re
from pathlib import Path

import torch

_DRIVER = Path("/proc/driver/nvidia/version")


def make_cuda_deterministic() -> None:
    """Have cuBLAS, cuDNN and torch choose only kernels that give the same bits for the same shapes, without TF32.

    It holds for the whole process: the settings of torch are not a thread's own, and codec, text encoder and
    conditioners compute on several. The variable is read when cuBLAS is first used (NVIDIA's note on reproducibility;
    torch asks for it in `torch.nn.LSTM`); one that is set already is kept.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False


def cuda_versions() -> dict[str, str]:
    """The versions of CUDA, cuDNN and the driver, and cuBLAS's workspaces, by their names in the fingerprint."""
    return {
        "cuda": str(torch.version.cuda),
        "cudnn": str(torch.backends.cudnn.version()),
        "driver": _read_driver_version(),
        "cublas_workspace": os.environ.get("CUBLAS_WORKSPACE_CONFIG", ""),
    }


def _read_driver_version() -> str:
    """The version of NVIDIA's kernel module on Linux; empty where it is not told."""
    try:
        match = re.search(r"\b\d{3}\.\d+(?:\.\d+)?\b", _DRIVER.read_text(encoding="utf-8"))
    except OSError:
        return ""
    return match[0] if match else ""
