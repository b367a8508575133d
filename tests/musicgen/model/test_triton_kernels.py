"""The Triton kernels by Triton's interpreter: against torch's operations, and the same bits beside any neighbors."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from musicgen.engine.sampling import SAMPLING_PARAMS_DTYPE, SamplingParams, sample_codes
from musicgen.model.decoder import triton_launch, triton_step
from musicgen.model.decoder.ops import LayerCache
from musicgen.model.decoder.torch_ops import TorchOps
from musicgen.model.decoder.triton_ops import TritonOps, _choose_cache_folder, find_wrong_kernel, make_triton_ops

pytest.importorskip("triton", reason="no triton")
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="python -m tests.gpu checks the kernels on a card")

CPU = torch.device("cpu")
HEADS, CAPACITY = 2, 320
LENGTHS = [1, 2, 129, 130, 257, CAPACITY]
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.02}  # the interpreter cuts bfloat16 off where a GPU rounds


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def filled_cache(rows: int, dim: int, dtype: torch.dtype) -> LayerCache:
    keys, values = (random(rows, HEADS, CAPACITY, dim, seed=seed).to(dtype) for seed in (1, 2))
    return keys, values


def attend(parts: bool, qkv: Tensor, rows: Tensor, lengths: Tensor, cache: LayerCache) -> Tensor:
    if not parts:
        return triton_launch.append_and_attend(qkv, rows, lengths, *cache)
    return triton_launch.combine_parts(
        triton_launch.append_and_attend_in_parts(qkv, rows, lengths, *cache), lengths, cache[0].dtype
    )


@pytest.mark.parametrize("parts", [False, True])
@pytest.mark.parametrize(("dtype", "dim"), [(torch.float32, 64), (torch.float32, 10), (torch.bfloat16, 64)])
def test_attention_equals_the_torch_path_and_appends_on_the_way(parts: bool, dtype: torch.dtype, dim: int) -> None:
    plain, hidden = TorchOps(CPU, dtype, "eager"), HEADS * dim
    rows, lengths = torch.tensor([3, 0, 5, 1, 2, 4], dtype=torch.int32), torch.tensor(LENGTHS, dtype=torch.int32)
    qkv = random(len(LENGTHS), 3 * hidden).to(dtype).float()
    cache, expected_cache = filled_cache(6, dim, dtype), filled_cache(6, dim, dtype)
    for store in (*cache, *expected_cache):  # what an earlier clip has left behind a row's positions
        for row, length in zip(rows.tolist(), LENGTHS, strict=True):
            store[row, :, length:] = torch.nan
    plain.append(qkv[:, hidden : 2 * hidden], qkv[:, 2 * hidden :], rows, lengths, expected_cache)
    behind = [store.nan_to_num() for store in expected_cache]
    expected = plain.attend(qkv[:, :hidden], rows, lengths, (behind[0], behind[1]), CAPACITY)
    attended = attend(parts, qkv, rows, lengths, cache)
    assert attended.dtype == dtype
    torch.testing.assert_close(attended.float(), expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    for store, expected_store in zip(cache, expected_cache, strict=True):
        assert torch.equal(store.nan_to_num(7.0), expected_store.nan_to_num(7.0))


@pytest.mark.parametrize("parts", [False, True])
def test_attention_of_a_row_has_the_same_bits_alone_and_in_any_order(parts: bool) -> None:
    rows, lengths = torch.arange(6, dtype=torch.int32), torch.tensor(LENGTHS, dtype=torch.int32)
    qkv, order = random(6, 3 * HEADS * 16), torch.tensor([4, 1, 5, 0])
    together = attend(parts, qkv, rows, lengths, filled_cache(6, 16, torch.float32))
    shuffled = attend(parts, qkv[order], rows[order], lengths[order], filled_cache(6, 16, torch.float32))
    alone = attend(parts, qkv[4:5], rows[4:5], lengths[4:5], filled_cache(6, 16, torch.float32))
    assert torch.equal(shuffled, together[order])
    assert torch.equal(alone[0], together[4])


@pytest.mark.parametrize("parts", [False, True])
def test_attention_has_the_same_bits_in_a_longer_cache(parts: bool) -> None:
    rows, lengths = torch.arange(2, dtype=torch.int32), torch.tensor([60, 300], dtype=torch.int32)
    qkv, (keys, values) = random(2, 3 * HEADS * 16), filled_cache(2, 16, torch.float32)
    longer = tuple(torch.cat([store, random(*store.shape)], dim=2).contiguous() for store in (keys, values))
    attended = attend(parts, qkv, rows, lengths, (keys.clone(), values.clone()))
    assert torch.equal(attend(parts, qkv, rows, lengths, (longer[0], longer[1])), attended)


def test_attention_to_text_reads_live_states_and_gives_zeros_without_any() -> None:
    rows, lengths = torch.tensor([2, 0, 1], dtype=torch.int32), torch.tensor([0, 1, 200], dtype=torch.int32)
    q, cache = random(3, HEADS * 64), filled_cache(3, 64, torch.float32)
    expected = TorchOps(CPU, torch.float32, "eager").attend(q, rows, lengths, cache, CAPACITY)
    attended = triton_launch.attend_stored(q, rows, lengths, *cache)
    torch.testing.assert_close(attended, expected, atol=1e-5, rtol=1e-5)
    assert not attended[0].any()


def test_a_key_that_is_not_a_number_shows() -> None:
    keys, values = filled_cache(1, 16, torch.float32)
    keys[0, 1, 70, 3] = torch.nan
    one = torch.tensor([0], dtype=torch.int32)
    attended = triton_launch.attend_stored(random(1, HEADS * 16), one, one + 100, keys, values)
    assert attended[0, :16].isfinite().all()
    assert attended[0, 16:].isnan().all()


@pytest.mark.parametrize("hidden", [48, 256])
@pytest.mark.parametrize("delta_rows", [None, 3, 5])
def test_norm_equals_the_torch_path_and_adds_to_the_first_rows(hidden: int, delta_rows: int | None) -> None:
    x, weight, bias = random(5, hidden), random(hidden, seed=1), random(hidden, seed=2)
    delta = None if delta_rows is None else random(delta_rows, hidden, seed=3)
    expected_x = x.clone()
    expected = TorchOps(CPU, torch.float32, "eager").norm(expected_x, delta, weight, bias)
    normed = triton_launch.norm_residual(x, delta, weight, bias, torch.float32)
    torch.testing.assert_close(normed, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(x, expected_x)


def test_norm_and_gelu_of_a_row_do_not_depend_on_the_others() -> None:
    x, weight, bias = random(5, 48), random(48, seed=1), random(48, seed=2)
    normed = triton_launch.norm_residual(x.clone(), None, weight, bias, torch.float32)
    assert torch.equal(triton_launch.norm_residual(x[3:].clone(), None, weight, bias, torch.float32), normed[3:])
    activated = triton_launch.gelu_cast(x, torch.float32)
    torch.testing.assert_close(activated, torch.nn.functional.gelu(x), atol=1e-6, rtol=1e-5)
    assert torch.equal(triton_launch.gelu_cast(x[2:4], torch.float32), activated[2:4])


def test_embedding_equals_the_torch_path() -> None:
    entries, codebooks, hidden = 9, 4, 24
    embeddings, positions = random(codebooks * entries, hidden), random(50, hidden, seed=1)
    sequence = torch.randint(0, entries, (3, codebooks, 12), generator=torch.Generator().manual_seed(2))
    at, slots, clips = torch.tensor([4, 0, 11]), torch.tensor([2, 0, 1]), torch.tensor([0, 1, 2, 0, 1, 2])
    lengths = torch.tensor([12, 5, 1, 40, 33, 50], dtype=torch.int32)
    codes = sequence[slots, :, at[slots]] + torch.arange(codebooks) * entries
    rows = torch.nn.functional.embedding(codes, embeddings)[clips]
    expected = rows[:, 0] + rows[:, 1] + rows[:, 2] + rows[:, 3] + positions[lengths.long() - 1]
    assert torch.equal(triton_step.embed_step(sequence, at, slots, clips, lengths, embeddings, positions), expected)


def sampling_params() -> SamplingParams:
    """Six clips: top-k, top-p, neither, both, a top-p of 1, and one greedy; two and three branches, and one."""
    table = np.zeros(6, SAMPLING_PARAMS_DTYPE)
    table["cond"] = table["other"] = np.arange(6)
    table["null"] = 12 + np.arange(6)
    table["other"][3], table["null"][5] = 9, 5
    table["scale"], table["beta"] = 3.0, 5.0
    table["temperature"] = [1.0, 0.7, 0.0, 1.3, 1.0, 1.0]
    table["top_p"] = [0.0, 0.5, 0.0, 0.9, 0.0, 1.0]
    table["top_k"] = [10, 0, 5, 7, 0, 1]
    table["seed"] = np.random.default_rng(0).integers(0, 2**63 - 1, 6)
    table["window"] = [0, 1, 2, 0, 3, 4]
    return SamplingParams.from_table(table, CPU)


def test_sampling_draws_what_the_torch_path_draws() -> None:
    params, logits = sampling_params(), random(18, 2, 50) * 3
    logits[2, 1, 3], logits[0, 0, 7] = torch.nan, torch.inf
    logits[4, 0, :20] = logits[4, 0, 20:40].clone()  # equal logits
    slots, at = torch.tensor([3, 1, 0, 2, 5, 4]), torch.tensor([1, 2, 3, 4, 5, 6])
    sequence = torch.full((6, 2, 9), -1)
    sequence[1, 1, 3] = 7  # given: it stays
    steps, expected = at[slots] + 1, sequence.clone()
    given = sequence[slots, :, steps]
    expected[slots, :, steps] = torch.where(given < 0, sample_codes(logits, params, steps), given)
    columns = [params.columns[name] for name in SAMPLING_PARAMS_DTYPE.names or ()]
    triton_step.sample_step(logits, sequence, at, slots, *columns)
    assert torch.equal(sequence, expected)
    assert (sequence == 50).sum() == 2, "the code of logits that are not finite"


def test_advancing_moves_live_clips_and_their_tokens_alone() -> None:
    at, lengths = torch.tensor([1, 2, 3]), torch.arange(6, dtype=torch.int32)
    slots, advance, clips = torch.tensor([2, 0, 1]), torch.tensor([1, 0, 1]), torch.tensor([0, 1, 2, 0, 1, 2])
    triton_step.advance_step(at, slots, advance, lengths, clips)
    assert at.tolist() == [1, 3, 4]
    assert lengths.tolist() == [1, 1, 3, 4, 4, 6]


def test_what_triton_compiles_is_kept_beside_the_other_kernels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MUSICGEN_CACHE", str(tmp_path))
    monkeypatch.setenv("TRITON_CACHE_DIR", "the user's own")
    _choose_cache_folder()
    assert os.environ["TRITON_CACHE_DIR"] == "the user's own"
    monkeypatch.delenv("TRITON_CACHE_DIR")
    _choose_cache_folder()
    assert os.environ["TRITON_CACHE_DIR"] == str(tmp_path / "kernels/triton")


def test_kernels_that_are_wrong_or_fail_are_left_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", os.environ.get("TRITON_CACHE_DIR", ""))  # it is set for good otherwise
    assert find_wrong_kernel(TritonOps(CPU, torch.float32), 16) is None
    assert isinstance(make_triton_ops(CPU, torch.float32, 16, None), TritonOps)
    with monkeypatch.context() as patch:
        patch.setattr(triton_launch, "gelu_cast", lambda x, dtype: x)
        assert make_triton_ops(CPU, torch.float32, 16, None) == "GELU failed its check"

    def fail(*arguments: object) -> Tensor:
        raise RuntimeError("PTX was compiled with an unsupported toolchain")

    monkeypatch.setattr(triton_launch, "append_and_attend", fail)
    assert make_triton_ops(CPU, torch.float32, 16, None) == "triton failed"
