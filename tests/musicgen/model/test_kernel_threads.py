"""The kernels with any number of threads and any order of chunks: the same bits, and no data race.

The library's hook `shuffle_chunks` draws the order of every loop's chunks, and makes the threads wait for each other
before their first chunk. `helped_loops` counts how often a thread other than the caller worked on a loop.
"""

import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from musicgen.engine.sampling import SAMPLING_PARAMS_DTYPE
from musicgen.model.decoder import cpu_ops
from musicgen.model.decoder.cpu_ops import CpuOps, load_library

THREADS = (1, 2, 3, 8)
SEEDS = range(1, 7)
RACES = Path(__file__).with_name("kernel_races.cpp")


@pytest.fixture
def library() -> Iterator[Any]:
    library = load_library()
    if isinstance(library, str):
        pytest.skip(f"no compiled kernels: {library}")
    yield library
    library.shuffle_chunks(0)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def positions(tokens: int, start: int = 0) -> torch.Tensor:
    return torch.arange(start + 1, start + tokens + 1, dtype=torch.int32)


def filled(
    ops: CpuOps, rows: int, heads: int, capacity: int, dim: int, value: float
) -> tuple[torch.Tensor, torch.Tensor]:
    cache = ops.allocate_cache(rows, heads, capacity, dim)
    for part in cache:
        part.fill_(value)
    return cache


# Each kernel: its outputs, at a size where eight threads have work. Caches begin with what an earlier clip might have
# left.


def prefill(ops: CpuOps) -> list[torch.Tensor]:
    """One row, many tokens; the last position is the first of its pair."""
    qkv, cache = random(301, 3 * 512), filled(ops, 2, 8, 304, 64, float("inf"))
    ops.append(qkv[:, 512:1024], qkv[:, 1024:], torch.zeros(301, dtype=torch.int32), positions(301), cache)
    return [*cache, ops.attend(qkv[-1:, :512], torch.zeros(1, dtype=torch.int32), positions(1, 300), cache, 301)]


def prefill_of_ragged_heads(ops: CpuOps) -> list[torch.Tensor]:
    """Heads narrower than whole vectors, five of them, from an odd position."""
    kv, cache = random(900, 2 * 100), filled(ops, 1, 5, 928, 20, 1e30)
    ops.append(kv[:, :100], kv[:, 100:], torch.zeros(900, dtype=torch.int32), positions(900, 3), cache)
    return list(cache)


def steps(ops: CpuOps) -> list[torch.Tensor]:
    """Many rows, one token each, twice: the second position of a pair after the first."""
    cache, rows = filled(ops, 256, 8, 16, 64, float("nan")), torch.arange(256, dtype=torch.int32)
    for step in range(2):
        kv = random(256, 2 * 512) + step
        ops.append(kv[:, :512], kv[:, 512:], rows, torch.full((256,), 3 + step, dtype=torch.int32), cache)
    return list(cache)


def attention(ops: CpuOps) -> list[torch.Tensor]:
    cache = ops.allocate_cache(4, 8, 144, 32)
    for part in cache:
        part.copy_(random(*part.shape))
    return [ops.attend(random(60, 256), torch.arange(60, dtype=torch.int32) % 4, positions(60, 70), cache, 130)]


def linear(ops: CpuOps) -> list[torch.Tensor]:
    weight = random(1030, 520)
    return [ops.linear(random(200, 520), ops.pack(weight), activate=activate) for activate in (False, True)]


def pack(ops: CpuOps) -> list[torch.Tensor]:
    return [ops.pack(random(1030, 130)).data]


def norm(ops: CpuOps) -> list[torch.Tensor]:
    x = random(210, 1000)
    return [ops.norm(x, random(180, 1000), random(1000), random(1000)), x]


def sample(ops: CpuOps) -> list[torch.Tensor]:
    choices = np.zeros(30, SAMPLING_PARAMS_DTYPE)
    for i, choice in enumerate(choices):
        cond, null = i, 30 + i
        choice["cond"], choice["other"], choice["null"], choice["scale"], choice["beta"] = cond, cond, null, 3, 1
        choice["temperature"], choice["top_k"], choice["top_p"], choice["seed"] = (
            i % 3,
            250 * (i % 2),
            0.9 * (i % 5 == 0),
            i,
        )
    codes = torch.full((30, 4), -1, dtype=torch.int32)
    codes[::7, 1] = 5  # given
    logits = random(60, 4, 2048)
    logits[3] = float("nan")
    ops.sample(logits, choices, positions(30), codes)
    return [codes]


KERNELS = [prefill, prefill_of_ragged_heads, steps, attention, linear, pack, norm, sample]
LOOPS = {"prefill": 1, "steps": 2, "linear": 4}  # of eight threads each; others have one


def bits(results: list[torch.Tensor]) -> list[bytes]:
    return [tensor.view(torch.uint8).numpy().tobytes() for tensor in results]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.__name__)
def test_bits_depend_neither_on_threads_nor_on_the_order_of_chunks(
    library: Any, kernel: Callable, dtype: torch.dtype
) -> None:
    library.shuffle_chunks(0)
    expected = bits(kernel(CpuOps(library, dtype, 1)))
    for threads in THREADS:
        ops = CpuOps(library, dtype, threads)
        for seed in SEEDS:
            library.shuffle_chunks(seed)
            before = library.helped_loops()
            found = bits(kernel(ops))
            helped = library.helped_loops() - before
            assert helped >= min(threads - 1, most_helpers(kernel)) * LOOPS.get(kernel.__name__, 1), (
                "the threads were not there"
            )
            assert found == expected, (threads, seed)
        library.shuffle_chunks(0)
        for _ in range(5):
            assert bits(kernel(ops)) == expected, threads


def most_helpers(kernel: Callable) -> int:
    """A chunk of `append` is a head at least, and five heads are work for five threads."""
    return 4 if kernel is prefill_of_ragged_heads else 7


def test_two_callers_at_once_get_what_each_gets_alone(library: Any) -> None:
    """One of them has the threads, the other goes alone."""
    ops = CpuOps(library, torch.float32, 3)
    expected = {kernel: bits(kernel(ops)) for kernel in KERNELS}

    def call(seed: int) -> None:
        for kernel in KERNELS[seed % 2 :] * 4:
            assert bits(kernel(ops)) == expected[kernel], kernel

    before = library.helped_loops()
    with ThreadPoolExecutor(2) as callers:
        list(callers.map(call, range(2)))
    assert library.helped_loops() > before


def test_an_infinity_that_an_earlier_clip_left_is_not_read(library: Any) -> None:
    """The last position may be the first of its pair; the second is read with weight 0, which an infinity would
    survive.
    """
    for dtype in (torch.float32, torch.bfloat16):
        for threads in (1, 2):
            assert torch.isfinite(prefill(CpuOps(library, dtype, threads))[-1]).all()


def compile_races(*flags: str) -> subprocess.CompletedProcess[str]:
    common = ["-march=native", "-std=c++17", "-pthread", "-fno-strict-aliasing", "-Wno-psabi"]
    command = ["g++", *common, *flags, f"-I{cpu_ops._SOURCE}", str(RACES)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.usefixtures("library")
def test_the_program_for_thread_sanitizer_follows_the_kernels() -> None:
    """The slow test below is run rarely; a renamed kernel is found here."""
    done = compile_races("-fsyntax-only")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def races(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kernels under ThreadSanitizer, as a program."""
    program = tmp_path_factory.mktemp("races") / "races"
    done = compile_races("-fsanitize=thread", "-O1", "-g", "-o", str(program))
    if "cannot find" in done.stderr and "tsan" in done.stderr:
        pytest.skip("no ThreadSanitizer")
    assert done.returncode == 0, done.stderr
    return program


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("threads", range(2, 9))
def test_thread_sanitizer_is_silent(races: Path, threads: int) -> None:
    # Its memory map wants addresses that are not randomized.
    command = ["setarch", "-R", str(races), str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, env={"TSAN_OPTIONS": "exitcode=66 halt_on_error=0"})
    assert done.returncode == 0, done.stdout + done.stderr[:6000]
    assert "WARNING" not in done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len(lines) == 26, done.stdout
    assert all(int(helped) >= int(least) for _, helped, least in lines), done.stdout
