"""The bytes that the traces state for each Triton kernel, against the loads and stores that it does."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from musicgen.engine.sampling import SAMPLING_PARAMS_DTYPE, SamplingParams
from musicgen.model.decoder import triton_launch, triton_step
from tests.cuda_trace.launch_bytes import MeanLengths, launch_bytes

pytest.importorskip("triton", reason="no triton")
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter is not used beside a card")

SIZES = [(2, 2, 16, 40), (3, 4, 64, 150), (5, 3, 24, 300)]  # tokens, heads, dim, positions


class Traffic:
    """Notes which bytes interpreted kernels read and write."""

    def __init__(self, patch: pytest.MonkeyPatch):
        from triton.runtime import interpreter

        self.accesses: dict[str, list[Any]] = defaultdict(list)
        for kind in ("load", "store"):
            name = f"create_masked_{kind}"
            self._watch(patch, interpreter.InterpreterBuilder, name, kind, mask_at=1 if kind == "load" else 2)

    def _watch(self, patch: pytest.MonkeyPatch, builder: type, name: str, kind: str, mask_at: int) -> None:
        access = getattr(builder, name)

        def watched(this: Any, pointers: Any, *arguments: Any) -> Any:
            addresses, mask = np.broadcast_arrays(pointers.data, arguments[mask_at - 1].data)
            width = pointers.get_element_ty().primitive_bitwidth // 8
            self.accesses[kind].append(np.unique(addresses[mask]) * 16 + width)
            return access(this, pointers, *arguments)

        patch.setattr(builder, name, watched)

    @property
    def nbytes(self) -> int:
        """What was read and what was written, each byte once."""
        return sum(int((np.unique(np.concatenate(all_)) % 16).sum()) for all_ in self.accesses.values())


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def check(
    monkeypatch: pytest.MonkeyPatch, operation: Callable[..., Any], *args: Any, lengths: MeanLengths | None = None
) -> Any:
    """Run an operation, and compare its bytes; return its result."""
    with monkeypatch.context() as patch:
        traffic = Traffic(patch)
        result = operation(*args)
    results = [result] if isinstance(result, Tensor) else []
    name = operation.name().split("::")[1]
    assert traffic.nbytes == launch_bytes(name, args, results, lengths or MeanLengths(1, 1))
    return result


@pytest.mark.parametrize(("tokens", "heads", "dim", "positions"), SIZES)
def test_attention_moves_what_is_stated(
    monkeypatch: pytest.MonkeyPatch, tokens: int, heads: int, dim: int, positions: int
) -> None:
    keys, values = random(tokens, heads, 320, dim), random(tokens, heads, 320, dim)
    rows = torch.arange(tokens, dtype=torch.int32)
    unequal = positions - rows  # no row reads beyond its own positions
    mean = MeanLengths(unequal.double().mean().item(), unequal.double().mean().item())
    qkv = random(tokens, 3 * heads * dim)
    check(monkeypatch, triton_launch.append_and_attend, qkv, rows, unequal, keys, values, lengths=mean)
    q = qkv[:, : heads * dim].contiguous()
    check(monkeypatch, triton_launch.attend_stored, q, rows, unequal, keys, values, lengths=mean)
    equal, mean = torch.full_like(rows, positions), MeanLengths(positions, 0)
    parts = check(monkeypatch, triton_launch.append_and_attend_in_parts, qkv, rows, equal, keys, values, lengths=mean)
    check(monkeypatch, triton_launch.combine_parts, parts, equal, torch.bfloat16, lengths=mean)


@pytest.mark.parametrize(("tokens", "heads", "dim", "positions"), SIZES)
def test_what_lies_between_the_products_moves_what_is_stated(
    monkeypatch: pytest.MonkeyPatch, tokens: int, heads: int, dim: int, positions: int
) -> None:
    hidden = heads * dim
    x, weight, bias = random(tokens, hidden), random(hidden), random(hidden)
    for delta in (None, random(tokens - 1, hidden), random(tokens, hidden).bfloat16()):
        check(monkeypatch, triton_launch.norm_residual, x, delta, weight, bias, torch.bfloat16)
    check(monkeypatch, triton_launch.gelu_cast, x, torch.bfloat16)
    entries, codebooks = 16, 2
    sequence = torch.stack([torch.full((codebooks, 9), slot) for slot in range(tokens)])
    slots, clips = torch.arange(tokens), torch.arange(2 * tokens) % tokens
    lengths = torch.arange(1, 2 * tokens + 1, dtype=torch.int32)
    tables = random(codebooks * entries, hidden), random(50, hidden)
    check(monkeypatch, triton_step.embed_step, sequence, slots.clone(), slots, clips, lengths, *tables)
    check(monkeypatch, triton_step.advance_step, slots.clone(), slots, torch.ones_like(slots), lengths, clips)


@pytest.mark.parametrize(("clips", "codebooks", "size"), [(1, 2, 30), (3, 1, 64), (2, 2, 100)])
def test_sampling_moves_what_is_stated(monkeypatch: pytest.MonkeyPatch, clips: int, codebooks: int, size: int) -> None:
    table = np.zeros(clips, SAMPLING_PARAMS_DTYPE)
    for index, name in enumerate(("cond", "other", "null")):
        table[name] = index * clips + np.arange(clips)
    table["temperature"] = table["scale"] = table["beta"] = 1
    params = SamplingParams.from_table(table, torch.device("cpu"))
    columns = [params.columns[name] for name in SAMPLING_PARAMS_DTYPE.names or ()]
    sequence, slots = torch.full((clips, codebooks, 9), -1), torch.arange(clips)
    logits = random(3 * clips, codebooks, size)
    check(monkeypatch, triton_step.sample_step, logits, sequence, slots.clone(), slots, *columns)
