"""Compiles and loads the CPU kernels of `kernels/`, and declares their arguments.

They are called through ctypes, which releases the interpreter lock during a call; one call costs about 3 us. The
library has a thread pool of its own.
"""

import ctypes
import logging
import os
import shlex
import shutil
import subprocess
from pathlib import Path

from musicgen.model.decoder import build
from musicgen.model.processor import processor_flags

log = logging.getLogger(__name__)

_SOURCE = Path(__file__).with_name("kernels")
_POINTER, _INT, _LONG = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
_CACHE = [_INT, *[_POINTER] * 4, *[_INT] * 3]  # tokens, rows, lengths, keys, values, heads, dim, capacity
_SIGNATURES = {
    "pack_fp32": [_POINTER, _INT, _INT, _POINTER, _INT],
    "pack_bf16": [_POINTER, _INT, _INT, _POINTER, _INT],
    "linear_fp32": [_POINTER, _LONG, _INT, _INT, _POINTER, _INT, _POINTER, _POINTER, _INT, _INT],
    "linear_bf16": [_POINTER, _LONG, _INT, _INT, _POINTER, _INT, _POINTER, _POINTER, _INT, _INT],
    "convolve_fp32": [_POINTER, _LONG, _LONG, _INT, _POINTER, _INT, _POINTER, _POINTER, _POINTER],
    "recur_fp32": [_INT, _POINTER, _POINTER, _POINTER, _INT, _POINTER, _POINTER, _POINTER],
    "append_fp32": [_POINTER, _POINTER, _LONG, *_CACHE, _INT],
    "append_bf16": [_POINTER, _POINTER, _LONG, *_CACHE, _INT],
    "append_and_attend_fp32": [_POINTER, _POINTER, _POINTER, _LONG, *_CACHE, _POINTER, _INT],
    "append_and_attend_bf16": [_POINTER, _POINTER, _POINTER, _LONG, *_CACHE, _POINTER, _INT],
    "attention_fp32": [_POINTER, _LONG, *_CACHE, _POINTER, _INT],
    "attention_bf16": [_POINTER, _LONG, *_CACHE, _POINTER, _INT],
    "norm_fp32": [_POINTER, _POINTER, _INT, _POINTER, _POINTER, _INT, _INT, _POINTER, _INT],
    "sample_fp32": [_POINTER, _POINTER, _INT, _POINTER, _INT, _INT, _POINTER, _INT],
}


def are_kernels_ready() -> bool:
    """Whether loading the kernels takes no time: they are compiled, or cannot be."""
    compiler, target = _choose_build()
    if os.environ.get("MUSICGEN_COMPILE") == "0" or shutil.which(compiler[0]) is None:
        return True
    try:
        return build.is_compiled(_SOURCE, compiler, target)
    except (OSError, subprocess.SubprocessError):
        return True


def _choose_build() -> tuple[list[str], build.Target]:
    """Return the compiler's command, and what the environment asks to compile for."""
    portable = os.environ.get("MUSICGEN_COMPILE") == "portable"
    target = (build.choose_target(processor_flags()) if portable else None) or build.NATIVE
    return shlex.split(os.environ.get("CXX", "")) or ["g++"], target  # it may be `ccache g++`


def load_unchecked_kernels() -> "ctypes.CDLL | str":
    """Load the compiled kernels, or say in a few words why there are none (`MUSICGEN_COMPILE=0`, no g++, it failed)."""
    if os.environ.get("MUSICGEN_COMPILE") == "0":
        return "MUSICGEN_COMPILE=0"
    compiler, target = _choose_build()
    has_compiler = shutil.which(compiler[0]) is not None
    if not has_compiler and target is build.NATIVE:
        return "no g++"
    try:
        library = build.compile_kernels(_SOURCE, compiler, target)
    except (OSError, subprocess.SubprocessError) as error:
        if not has_compiler:
            return "no g++"
        detail = getattr(error, "stderr", None) or str(error)
        log.warning("the CPU kernels could not be compiled, falling back to slower eager operations: %s", detail)
        return "g++ failed"
    library.instruction_set.restype = library.build_name.restype = ctypes.c_char_p
    library.shuffle_chunks.argtypes, library.shuffle_chunks.restype = [ctypes.c_uint64], None
    library.helped_loops.restype = _LONG
    for name, arguments in _SIGNATURES.items():
        function = getattr(library, name)
        function.argtypes, function.restype, function.errcheck = arguments, _INT, _raise_if_out_of_memory
    return library


def _raise_if_out_of_memory(status: int, function: object, arguments: tuple[object, ...]) -> int:
    """Raise `MemoryError`, which the engine meets with fewer slots, for the status 1 of a kernel."""
    if status:
        raise MemoryError("the CPU kernels could not allocate their working memory")
    return status
