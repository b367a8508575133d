"""Registers a CUDA device guard that does nothing, for torch builds without CUDA. It needs a C++ compiler."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

SOURCE = Path(__file__).with_name("guard.cpp")


def find_compiler() -> str | None:
    """The C++ compiler, None if there is none."""
    return shutil.which(os.environ.get("CXX", "c++"))


def register_device_guard() -> None:
    """Compile and load the guard into this process, unless torch has CUDA's own. Raises `CalledProcessError`."""
    if torch.backends.cuda.is_built():
        return
    compiler = find_compiler()
    assert compiler is not None, "no C++ compiler"
    root = Path(torch.__file__).parent
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder, "guard.so")
        includes = [f"-I{root / 'include'}", f"-I{root / 'include/torch/csrc/api/include'}"]
        libraries = [f"-L{root / 'lib'}", "-lc10", f"-Wl,-rpath,{root / 'lib'}"]
        subprocess.run(
            [compiler, "-shared", "-fPIC", "-std=c++20", *includes, str(SOURCE), "-o", str(library), *libraries],
            check=True,
            capture_output=True,
        )
        torch.ops.load_library(str(library))
