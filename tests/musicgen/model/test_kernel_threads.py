"""The kernels with any number of threads and any order of chunks: the same bits, and no data race.

The library's hook `shuffle_chunks` draws the order of every loop's chunks, and makes the threads wait for each other
before their first chunk. `helped_loops` counts how often a thread other than the caller worked on a loop.
"""

import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from musicgen.engine.sampling import SAMPLING_PARAMS_DTYPE
from musicgen.model.decoder import kernel_library
from musicgen.model.decoder.cpu_ops import CpuOps, load_library

THREADS = (1, 2, 3, 8)
SEEDS = range(1, 7)
DTYPES = (torch.float32, torch.bfloat16)
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


def attended_steps(ops: CpuOps) -> list[torch.Tensor]:
    """Many rows, one token each, appended and attended to by one kernel."""
    cache, rows = filled(ops, 256, 8, 32, 64, 0.5), torch.arange(256, dtype=torch.int32)
    lengths = 2 + rows % 30
    return [ops.append_and_attend(random(256, 3 * 512), rows, lengths, cache, 32), *cache]


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


KERNELS = [prefill, prefill_of_ragged_heads, steps, attended_steps, attention, linear, pack, norm, sample]
LOOPS = {"prefill": 1, "steps": 2, "linear": 4}  # of eight threads each; others have one


def bits(results: list[torch.Tensor]) -> list[bytes]:
    return [tensor.view(torch.uint8).numpy().tobytes() for tensor in results]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
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


@pytest.mark.usefixtures("library")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="tunes for x86-64 processors")
@pytest.mark.parametrize("tuning", ["generic", "skylake", "znver3"])
def test_bits_do_not_depend_on_the_processor_that_the_compiler_tunes_for(
    tuning: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The column `engine` names the instructions, so that machines which have the same ones make the same clips."""
    expected = {
        (kernel, dtype): bits(kernel(CpuOps(load_library(), dtype, 2))) for kernel in KERNELS for dtype in DTYPES
    }
    monkeypatch.setenv("CXX", f"g++ -mtune={tuning}")
    monkeypatch.setenv("MUSICGEN_CACHE", str(tmp_path))
    tuned = kernel_library.load_unchecked_kernels()
    assert {key: bits(key[0](CpuOps(tuned, key[1], 2))) for key in expected} == expected


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dim", [20, 64, 144])
def test_a_heads_bits_do_not_depend_on_the_heads_that_are_read_with_it(
    library: Any, dim: int, dtype: torch.dtype
) -> None:
    heads, tokens = 7, 33
    qkv = random(tokens, 3, heads, dim)
    rows, lengths = torch.arange(tokens, dtype=torch.int32), torch.full((tokens,), 1, dtype=torch.int32)

    def attend(some: slice) -> torch.Tensor:
        mine = qkv[:, :, some].contiguous()
        width = mine.shape[2] * dim
        ops, out = CpuOps(library, dtype, 2), []
        cache = filled(ops, tokens, mine.shape[2], 48, dim, 0)
        for position in range(35):
            turned = mine.roll(position, 0).reshape(tokens, 3 * width)
            out.append(ops.append_and_attend(turned, rows, lengths + position, cache, position + 1))
        return torch.stack(out).view(35, tokens, -1, dim)

    together = attend(slice(None))
    for head in range(heads):
        assert torch.equal(attend(slice(head, head + 1))[:, :, 0], together[:, :, head])


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


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("position", [0, 5, 16, 129])
def test_a_key_that_is_not_a_number_shows_in_the_output(library: Any, dtype: torch.dtype, position: int) -> None:
    """As in torch's attention: rather a row that fails than one that sounds wrong."""
    ops = CpuOps(library, dtype, 1)
    k, v, cache = random(130, 64), random(130, 64) + 1, ops.allocate_cache(1, 2, 130, 32)
    k[position, 3] = float("nan")
    ops.append(k, v, torch.zeros(130, dtype=torch.int32), positions(130), cache)
    out = ops.attend(random(1, 64), torch.zeros(1, dtype=torch.int32), positions(1, 129), cache, 130)
    assert out[:, :32].isnan().all()
    assert out[:, 32:].isfinite().all()  # the other head


def test_a_row_without_positions_gets_zeros(library: Any) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        ops = CpuOps(library, dtype, 1)
        cache = filled(ops, 2, 2, 16, 32, float("nan"))
        lengths = torch.zeros(2, dtype=torch.int32)
        assert torch.equal(
            ops.attend(random(2, 64), torch.arange(2, dtype=torch.int32), lengths, cache, 16), torch.zeros(2, 64)
        )


_TOO_LARGE = """
import resource, sys
import torch
from musicgen.model.decoder.cpu_ops import CpuOps, load_library
threads = int(sys.argv[1])
ops = CpuOps(load_library(), torch.float32, threads)
tokens = 4096
q, out = torch.ones(tokens, 32), torch.empty(tokens, 32)
rows, lengths = torch.zeros(tokens, dtype=torch.int32), torch.full((tokens,), 16, dtype=torch.int32)
keys, values = ops.allocate_cache(1, 1, 16, 32)
def attend(capacity):
    ops.library.attention_fp32(
        q.data_ptr(), 32, tokens, rows.data_ptr(), lengths.data_ptr(), keys.data_ptr(), values.data_ptr(), 1, 32,
        capacity, out.data_ptr(), threads,
    )
attend(16)
size = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmSize")) << 10
resource.setrlimit(resource.RLIMIT_AS, (size + (256 << 20), -1))
try:
    attend(1 << 29)  # scores of 2 GB
except MemoryError as error:
    print(error)
attend(16)
print(bool(out.isfinite().all()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space")
@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("threads", [1, 3])
def test_no_memory_for_a_kernel_is_an_error_and_no_abort(threads: int) -> None:
    command = [sys.executable, "-c", _TOO_LARGE, str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=Path(__file__).parents[3])
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["the CPU kernels could not allocate their working memory", "True"]


_NO_THREADS = """
import resource
import torch
from musicgen.model.decoder.cpu_ops import CpuOps, load_library
library = load_library()
weight, x = torch.randn(1024, 512), torch.randn(256, 512)
alone = CpuOps(library, torch.float32, 1)
packed = alone.pack(weight)
expected, room = alone.linear(x, packed), torch.empty(1 << 22)
del room
size = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmSize")) << 10
resource.setrlimit(resource.RLIMIT_AS, (size + (4 << 20), -1))  # less than the stack of a thread
print(torch.equal(CpuOps(library, torch.float32, 64).linear(x, packed), expected))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space")
@pytest.mark.usefixtures("library")
def test_threads_that_cannot_be_started_are_done_without() -> None:
    command = [sys.executable, "-c", _NO_THREADS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=Path(__file__).parents[3])
    assert (done.returncode, done.stdout.strip()) == (0, "True"), done.stderr


def test_products_have_work_for_many_threads(library: Any) -> None:
    """1,024 columns, as the narrow products of musicgen-small: pieces for sixteen threads, and the same bits."""
    weight, x = random(1024, 512), random(256, 512)
    expected = bits([CpuOps(library, torch.bfloat16, 1).linear(x, CpuOps(library, torch.bfloat16, 1).pack(weight))])
    ops = CpuOps(library, torch.bfloat16, 16)
    packed = ops.pack(weight)
    library.shuffle_chunks(1)  # every thread that a loop has use for takes part
    before = library.helped_loops()
    assert bits([ops.linear(x, packed)]) == expected
    assert library.helped_loops() - before >= 15


def test_an_infinity_that_an_earlier_clip_left_is_not_read(library: Any) -> None:
    """The last position may be the first of its pair; the second is read with weight 0, which an infinity would
    survive.
    """
    for dtype in (torch.float32, torch.bfloat16):
        for threads in (1, 2):
            assert torch.isfinite(prefill(CpuOps(library, dtype, threads))[-1]).all()


def compile_races(*flags: str) -> subprocess.CompletedProcess[str]:
    common = ["-march=native", "-std=c++17", "-pthread", "-fno-strict-aliasing", "-Wno-psabi"]
    command = ["g++", *common, *flags, f"-I{kernel_library._SOURCE}", str(RACES)]
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
    assert len(lines) == 30, done.stdout
    assert all(int(helped) >= int(least) for _, helped, least in lines), done.stdout
