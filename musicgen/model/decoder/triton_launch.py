"""The Triton kernels as operations of torch, one launch each: `torch.ops.musicgen.*`.

As custom operations they can be traced on fake tensors (tests/cuda_trace), where Triton is not needed. The kernels are
imported at the first launch.
"""

import math

import torch
from torch import Tensor

from musicgen.model.decoder.launch_operation import device_of, launch_operation, load_kernels, next_power_of_2

SPLIT_POSITIONS = 128  # of one program, where there are too few rows for one program a row and head
_BLOCK_POSITIONS = 64
_BLOCK_ELEMENTS = 1024
_LOG2_E = 1.4426950408889634


def _fake_append_and_attend(qkv: Tensor, rows: Tensor, lengths: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    return qkv.new_empty(qkv.shape[0], qkv.shape[1] // 3, dtype=keys.dtype)


@launch_operation(fake=_fake_append_and_attend, mutates_args=("keys", "values"))
def append_and_attend(qkv: Tensor, rows: Tensor, lengths: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Write each token's key and value to position lengths - 1 of its own row, and attend to the positions up to there.

    qkv [tokens, 3 heads * dim]; keys and values [rows, heads, capacity, dim] -> [tokens, heads * dim] in their dtype.
    """
    out = qkv.new_empty(qkv.shape[0], qkv.shape[1] // 3, dtype=keys.dtype)
    _launch_attention(qkv, rows, lengths, keys, values, out, parts=1, split=0, append=True)
    return out


def _fake_append_and_attend_in_parts(
    qkv: Tensor, rows: Tensor, lengths: Tensor, keys: Tensor, values: Tensor
) -> Tensor:
    return _new_parts(qkv, keys)


@launch_operation(fake=_fake_append_and_attend_in_parts, mutates_args=("keys", "values"))
def append_and_attend_in_parts(qkv: Tensor, rows: Tensor, lengths: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """The same in parts of SPLIT_POSITIONS, for `combine_parts`: float32 [tokens, heads, parts, dim + 2]."""
    parts = _new_parts(qkv, keys)
    _launch_attention(qkv, rows, lengths, keys, values, parts, parts.shape[2], SPLIT_POSITIONS, append=True)
    return parts


def _fake_combine_parts(parts: Tensor, lengths: Tensor, dtype: torch.dtype) -> Tensor:
    return parts.new_empty(parts.shape[0], parts.shape[1] * (parts.shape[3] - 2), dtype=dtype)


@launch_operation(fake=_fake_combine_parts, mutates_args=())
def combine_parts(parts: Tensor, lengths: Tensor, dtype: torch.dtype) -> Tensor:
    """Merge the live parts of each token in their order -> [tokens, heads * dim]."""
    tokens, heads, count, width = parts.shape
    dim = width - 2
    out = parts.new_empty(tokens, heads * dim, dtype=dtype)
    with device_of(parts):
        load_kernels("attention_kernels").combine_kernel[(heads, tokens)](
            parts, count, lengths, out, heads, dim, next_power_of_2(dim), SPLIT_POSITIONS
        )
    return out


def _fake_attend_stored(q: Tensor, rows: Tensor, lengths: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    return torch.empty_like(q, dtype=keys.dtype)


@launch_operation(fake=_fake_attend_stored, mutates_args=())
def attend_stored(q: Tensor, rows: Tensor, lengths: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attend with q [tokens, heads * dim] to the first `lengths` positions of each token's row; 0 give zeros."""
    out = torch.empty_like(q, dtype=keys.dtype)
    _launch_attention(q, rows, lengths, keys, values, out, parts=1, split=0, append=False)
    return out


def _fake_norm_residual(x: Tensor, delta: Tensor | None, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.empty_like(x, dtype=dtype)


@launch_operation(fake=_fake_norm_residual, mutates_args=("x",))
def norm_residual(x: Tensor, delta: Tensor | None, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> Tensor:
    """Add delta to the first rows of x float32 [rows, hidden] in place, and return the layer norm of x in `dtype`."""
    out = torch.empty_like(x, dtype=dtype)
    rows, hidden = x.shape
    added = 0 if delta is None else delta.shape[0]
    with device_of(x):
        load_kernels("piece_kernels").norm_kernel[(rows,)](
            x, x if delta is None else delta, added, weight, bias, out, hidden, next_power_of_2(hidden)
        )
    return out


def _fake_gelu_cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.empty_like(x, dtype=dtype)


@launch_operation(fake=_fake_gelu_cast, mutates_args=())
def gelu_cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The exact GELU of x, in `dtype`."""
    out = torch.empty_like(x, dtype=dtype)
    grid = (-(-x.numel() // _BLOCK_ELEMENTS),)
    with device_of(x):
        load_kernels("piece_kernels").gelu_kernel[grid](x, out, x.numel(), _BLOCK_ELEMENTS)
    return out


def _launch_attention(
    q: Tensor,
    rows: Tensor,
    lengths: Tensor,
    keys: Tensor,
    values: Tensor,
    out: Tensor,
    parts: int,
    split: int,
    append: bool,
) -> None:
    _, heads, capacity, dim = keys.shape
    assert q.stride(1) == 1
    assert keys.is_contiguous()
    assert values.is_contiguous()
    with device_of(q):
        load_kernels("attention_kernels").attend_kernel[(heads, q.shape[0], parts)](
            q, q.stride(0), keys, values, capacity, rows, lengths, out, _LOG2_E / math.sqrt(dim), heads, dim,
            next_power_of_2(dim), _BLOCK_POSITIONS, split, append, num_warps=2 * keys.itemsize,
        )  # fmt: skip


def _new_parts(qkv: Tensor, keys: Tensor) -> Tensor:
    _, heads, capacity, dim = keys.shape
    return qkv.new_empty(qkv.shape[0], heads, -(-capacity // SPLIT_POSITIONS), dim + 2, dtype=torch.float32)
