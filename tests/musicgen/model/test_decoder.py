"""The decoder on every path: against a plain transformer, prefill against steps, caches that grow, and wrong
checkpoints.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from musicgen.errors import ModelError
from musicgen.model.checkpoint.resolve import resolve_checkpoint
from musicgen.model.checkpoint.tensors import Tensors
from musicgen.model.decoder import cpu_ops as native
from musicgen.model.decoder import decoder as decoder_module
from musicgen.model.decoder.cpu_ops import CpuOps, load_library
from musicgen.model.decoder.decoder import Decoder, TokenBatch, sinusoidal_positions
from musicgen.model.decoder.torch_ops import TorchOps

PATHS = ["native-float32", "native-bfloat16", "eager-float32", "eager-bfloat16"]
TOLERANCE = {"float32": 2e-5, "bfloat16": 0.15}


def kernels() -> Any:
    library = load_library()
    if isinstance(library, str):
        pytest.skip(f"no compiled kernels: {library}")
    return library


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, str], Decoder]:
    def build(folder: Path, path: str) -> Decoder:
        kind, dtype = path.split("-")
        if kind == "eager":
            monkeypatch.setattr(decoder_module, "load_library", lambda: "a test")
        else:
            kernels()
        spec = resolve_checkpoint(str(folder)).spec
        return Decoder.from_state_dict(spec, Tensors.open(folder).read("decoder."), "cpu", getattr(torch, dtype))

    return build


def tokens(rows: list[int], lengths: list[int], crossed: list[int]) -> TokenBatch:
    def int32(values: list[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int32)

    return TokenBatch(int32(rows), int32(lengths), len(crossed), int32(crossed), max(lengths))


def reference(decoder: Decoder, folder: Path, codes: torch.Tensor, text: torch.Tensor | None) -> torch.Tensor:
    """transformers' logits [steps, codebooks, size] of codes [steps, codebooks]."""
    from transformers import MusicgenForConditionalGeneration

    model = MusicgenForConditionalGeneration.from_pretrained(folder).eval().decoder
    states = torch.zeros(1, 1, decoder.spec.hidden) if text is None else text[None]
    with torch.inference_mode():
        logits = model(
            codes.T.contiguous(), encoder_hidden_states=states, encoder_attention_mask=torch.ones(states.shape[:2])
        ).logits
    return logits.transpose(0, 1)


@torch.inference_mode()
def test_logits_equal_transformers_by_steps_by_prefill_and_beside_others(
    build: Any, path: str, deeper_checkpoint: Path
) -> None:
    """One row with text and one without; run token by token, in one go, and in two halves."""
    decoder = build(deeper_checkpoint, path)
    generator = torch.Generator().manual_seed(3)
    steps = 41
    codes = torch.randint(0, decoder.spec.codebook_size + 1, (steps, 4), generator=generator)
    text = torch.randn(7, decoder.spec.hidden, generator=generator)
    decoder.reserve_positions(64)
    for row, heard in ((0, text), (1, None)):
        expected = reference(decoder, deeper_checkpoint, codes, heard)
        found = {}
        for name, pieces in {"steps": [1] * steps, "whole": [steps], "halves": [20, 21]}.items():
            cache = decoder.allocate_cache(2, 64, 1, 16)
            decoder.write_text_cache(cache, 0, text)
            out, at = [], 0
            for piece in pieces:
                lengths = list(range(at + 1, at + piece + 1))
                x = decoder.embed(codes[at : at + piece])
                states = decoder.forward(
                    x, tokens([row] * piece, lengths, [7] * piece if heard is not None else []), cache
                )
                out.append(decoder.logits(states))
                at += piece
            found[name] = torch.cat(out)
            scale = expected.abs().max()
            assert (found[name] - expected).abs().max() < TOLERANCE[path.split("-")[1]] * scale
        if path.startswith("native"):  # not merely close: the same bits, however the tokens were grouped
            assert torch.equal(found["steps"], found["whole"])
            assert torch.equal(found["steps"], found["halves"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("columns", "depth"), [(16, 8), (70, 36), (96, 514), (33, 1030)])
def test_a_products_row_does_not_depend_on_the_others(dtype: torch.dtype, columns: int, depth: int) -> None:
    generator = torch.Generator().manual_seed(1)
    weight, x = torch.randn(columns, depth, generator=generator), torch.randn(40, depth, generator=generator)
    alone = None
    for threads in (1, 3):
        ops = CpuOps(kernels(), dtype, threads)
        packed = ops.pack(weight)
        if alone is None:
            alone = torch.cat([ops.linear(row[None], packed) for row in x])
            exact = x.double() @ weight.to(dtype).double().T
            assert (alone - exact).abs().max() < (
                2e-4 if dtype == torch.float32 or "avx512_bf16" not in ops.name else 2
            )
        for rows in (2, 5, 6, 7, 13, 40):
            order = torch.randperm(40, generator=generator)[:rows]
            assert torch.equal(ops.linear(x[order].contiguous(), packed), alone[order])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_does_not_depend_on_neighbours_or_on_what_lies_behind(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(2)
    heads, dim, rows, longest = 3, 20, 4, 50
    ops = CpuOps(kernels(), dtype, 2)
    keys, values = (torch.randn(longest, heads * dim, generator=generator) for _ in range(2))
    q = torch.randn(rows, heads * dim, generator=generator)
    lengths = torch.tensor([1, 8, 33, 50], dtype=torch.int32)
    which = torch.arange(rows, dtype=torch.int32)
    found = []
    for capacity, stale in ((56, 0.0), (128, 1e30)):
        cache = ops.allocate_cache(rows, heads, capacity, dim)
        for part in cache:
            part.fill_(stale)  # what an earlier clip has left
        for row in range(rows):
            count = int(lengths[row])
            place = torch.full((count,), row, dtype=torch.int32)
            ops.append(keys[:count], values[:count], place, torch.arange(1, count + 1, dtype=torch.int32), cache)
        found.append(ops.attend(q, which, lengths, cache, longest))
        for row in range(rows):
            alone = ops.attend(q[row : row + 1], which[row : row + 1], lengths[row : row + 1], cache, longest)
            assert torch.equal(alone[0], found[-1][row])
    assert torch.equal(*found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("which", [[0, 1, 2, 5], [3, 3, 3, 3], [4, 2, 1, 0]])
def test_appending_and_attending_at_once_gives_the_same_bits(dtype: torch.dtype, which: list[int]) -> None:
    """In one kernel if each token is of a row of its own, one after the other if not."""
    generator = torch.Generator().manual_seed(3)
    heads, dim, capacity = 3, 20, 24
    ops = CpuOps(kernels(), dtype, 2)
    caches = [ops.allocate_cache(6, heads, capacity, dim) for _ in range(2)]
    rows = torch.tensor(which, dtype=torch.int32)
    for step in range(1, 21 if len(set(which)) > 1 else 2):
        qkv = torch.randn(4, 3 * heads * dim, generator=generator)
        lengths = torch.full((4,), step, dtype=torch.int32) if len(set(which)) > 1 else torch.arange(1, 5).int()
        q, k, v = qkv.chunk(3, dim=1)
        ops.append(k, v, rows, lengths, caches[0])
        apart = ops.attend(q, rows, lengths, caches[0], capacity)
        assert torch.equal(ops.append_and_attend(qkv, rows, lengths, caches[1], capacity), apart)
        for one, other in zip(*caches, strict=True):
            assert torch.equal(one, other)


def test_positions_are_cosines_then_sines() -> None:
    table = sinusoidal_positions(5, 8)
    assert torch.equal(table[0], torch.tensor([1.0] * 4 + [0.0] * 4))
    assert table[3, 4] == torch.sin(torch.tensor(3.0))


def test_wrong_checkpoints_are_named(build: Any, text_checkpoint: Path) -> None:
    spec = resolve_checkpoint(str(text_checkpoint)).spec
    whole = Tensors.open(text_checkpoint).read("decoder.")
    missing = {name: t for name, t in whole.items() if name != "model.decoder.layers.1.fc1.weight"}
    with pytest.raises(ModelError, match=r"layers\.1\.fc1\.weight; the checkpoint is incomplete"):
        Decoder.from_state_dict(spec, missing, "cpu", torch.float32)
    with pytest.raises(ModelError, match="shape"):
        Decoder.from_state_dict(spec, whole | {"lm_heads.0.weight": torch.zeros(3, 32)}, "cpu", torch.float32)
    deaf = {name: t for name, t in whole.items() if "encoder_attn" not in name}
    with pytest.raises(ModelError, match="cross-attention"):
        Decoder.from_state_dict(spec, deaf, "cpu", torch.float32)


def test_kernels_that_are_wrong_or_cannot_be_had_are_left_aside(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    library = kernels()
    assert native._find_wrong_kernel(library) is None
    monkeypatch.setattr(CpuOps, "attend", lambda self, q, *rest: q * 0)
    assert native._find_wrong_kernel(library) == "torch.float32 attention"
    for name, value, reason in (
        ("MUSICGEN_COMPILE", "0", "MUSICGEN_COMPILE=0"),
        ("CXX", str(tmp_path / "none"), "no g++"),
    ):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            assert load_library.__wrapped__() == reason
    broken = tmp_path / "g++"
    broken.write_text("#!/bin/sh\necho no such header >&2\nexit 1\n")
    broken.chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setenv("CXX", str(broken))
        assert load_library.__wrapped__() == "g++ failed"


def test_an_eager_products_row_does_not_depend_on_its_place_with_two_threads() -> None:
    ops = TorchOps(torch.device("cpu"), torch.float32, "eager")
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for rows in (1, 2, 3, 6, 10, 17, 64):  # 6 is where MKL was seen to differ
            x, order = torch.randn(rows, 1024), torch.randperm(rows)
            weight = ops.pack(torch.randn(1024, 1024))
            assert torch.equal(ops.linear(x, weight)[order], ops.linear(x[order], weight))
    finally:
        torch.set_num_threads(threads)


def test_threads_share_loops_without_losing_or_repeating_a_piece() -> None:
    """Thousands of loops, from two callers at once, with more threads than cores: every element as one thread computes
    it.
    """
    generator = torch.Generator().manual_seed(4)
    x, weight = torch.randn(30, 256, generator=generator), torch.randn(512, 256, generator=generator)
    qkv = torch.randn(30, 3 * 256, generator=generator)
    rows, lengths = torch.arange(30, dtype=torch.int32), torch.arange(31, 61, dtype=torch.int32)

    def compute(threads: int) -> list[torch.Tensor]:
        ops = CpuOps(kernels(), torch.float32, threads)
        cache = ops.allocate_cache(30, 8, 64, 32)
        for length in range(31, 61, 7):
            ops.append(qkv[:, 256:512], qkv[:, 512:], rows, torch.full((30,), length, dtype=torch.int32), cache)
        residual = x.repeat(1, 16)
        return [
            ops.linear(x, ops.pack(weight)),
            ops.attend(qkv[:, :256], rows, lengths, cache, 60),
            ops.norm(residual, residual.clone(), torch.ones(4096), torch.zeros(4096)),
            residual,
        ]

    expected = compute(1)

    def hammer(_: int) -> bool:
        return all(all(map(torch.equal, compute(4), expected)) for _ in range(150))

    with ThreadPoolExecutor(2) as callers:
        assert all(callers.map(hammer, range(2)))
