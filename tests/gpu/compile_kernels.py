"""`python -m tests.gpu.compile_kernels`: compiles the Triton kernels for GPUs that are not at hand.

It prints as JSON what ptxas says of each: registers and spilled bytes.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ARCHITECTURES = (80, 90, 100)
_POINTERS = {"i32": "rows lengths", "i64": "sequence at slots clips clip_of advance seed"}
_INTEGER_COLUMNS = ("cond", "other", "null", "top_k", "window")
_INTEGERS = {"q_stride", "capacity", "parts", "delta_rows", "count", "steps", "clips", "tokens"}


def list_variants() -> Iterator[tuple[str, str, dict[str, int], dict[str, str], int]]:
    """Kernels as musicgen-medium launches them, whose width is no power of two: name, label, constants, dtypes of
    pointers, warps.
    """
    heads, hidden, padded = 24, 1536, 2048
    shape = {"HEADS": heads, "DIM": 64, "DIM_PADDED": 64}
    for cache, warps in (("bf16", 4), ("fp32", 8)):
        store = {"keys": cache, "values": cache, "out": cache}
        launches = (("append", 0, 1), ("parts", 128, 1), ("text", 0, 0))
        for name, split, append in launches if cache == "bf16" else launches[:1]:
            constants = {**shape, "BLOCK": 64, "SPLIT": split, "APPEND": append}
            yield "attend_kernel", f"{name} {cache}", constants, {**store, "out": "fp32"} if split else store, warps
    out = {"out": "bf16"}
    yield "combine_kernel", "", {**shape, "SPLIT": 128}, out, 4
    width = {"HIDDEN": hidden, "HIDDEN_PADDED": padded}
    yield "norm_kernel", "", width, out, 4
    yield "embed_kernel", "", {**width, "CODEBOOKS": 4, "ENTRIES": 2049}, {"embeddings": "bf16"}, 4
    yield "gelu_kernel", "", {"BLOCK": 1024}, out, 4
    yield "sample_kernel", "", {"CODEBOOKS": 4, "SIZE": 2048, "SIZE_PADDED": 2048}, {}, 8
    yield "advance_kernel", "", {"BLOCK": 256}, {}, 4


def compile_variant(
    kernel: Any, constants: dict[str, int], dtypes: dict[str, str], warps: int, architecture: int
) -> dict[str, int]:
    """Compile for one architecture, and return what ptxas reports."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature: dict[str, str] = {}
    aligned = {}
    for index, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
        else:
            signature[name] = _type_of(name, dtypes)
            if name.endswith("_ptr") or name in ("capacity", "q_stride"):
                aligned[(index,)] = [["tt.divisibility", 16]]
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    compiled = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options={"num_warps": warps})
    return read_ptxas(compiled.asm["ptx"], architecture)


def _type_of(name: str, dtypes: dict[str, str]) -> str:
    base = name.removesuffix("_ptr")
    if name == base:
        return "i32" if name in _INTEGERS else "fp32"
    if base in _INTEGER_COLUMNS:
        return "*i32"
    for dtype, names in _POINTERS.items():
        if base in names.split():
            return f"*{dtype}"
    return f"*{dtypes.get(base, 'fp32')}"


def read_ptxas(ptx: str, architecture: int) -> dict[str, int]:
    """Run ptxas, which Triton brings along, for its report."""
    import triton

    folder = Path(triton.__file__).parent / "backends/nvidia/bin"
    ptxas = folder / ("ptxas-blackwell" if architecture >= 100 else "ptxas")
    target = re.search(r"\.target (\S+)", ptx)
    assert target is not None
    with tempfile.TemporaryDirectory() as scratch:
        Path(scratch, "kernel.ptx").write_text(ptx)
        command = [str(ptxas), "-v", f"--gpu-name={target[1]}", "kernel.ptx", "-o", "kernel.cubin"]
        report = subprocess.run(command, cwd=scratch, check=True, capture_output=True, text=True).stderr
    registers = re.search(r"Used (\d+) registers", report)
    spills = re.findall(r"(\d+) bytes spill (?:stores|loads)", report)
    stack = re.search(r"(\d+) bytes stack frame", report)
    assert registers is not None, report
    return {
        "registers": int(registers[1]),
        "spilled_bytes": sum(map(int, spills)),
        "stack_bytes": int(stack[1]) if stack else 0,
        "wide_loads": len(re.findall(r"ld\.global[^;]*v4", ptx)),
    }


def main() -> None:
    """Compile all variants for all architectures."""
    os.environ["TRITON_INTERPRET"] = "0"
    from musicgen.model.decoder.triton_kernels import attention_kernels, piece_kernels, sampling_kernels

    modules = (attention_kernels, piece_kernels, sampling_kernels)
    reports = []
    for name, label, constants, dtypes, warps in list_variants():
        kernel = next(getattr(module, name) for module in modules if hasattr(module, name))
        for architecture in ARCHITECTURES:
            report = compile_variant(kernel, constants, dtypes, warps, architecture)
            reports.append({"kernel": f"{name} {label}".strip(), "architecture": architecture, **report})
    json.dump(reports, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
