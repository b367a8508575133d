"""The bytes that a launch of each Triton kernel must move: every byte that it reads or writes, once.

The numbers inside a fake tensor are not there, so the mean length of a row is given. `tests/musicgen/model/
test_triton_bytes.py` compares these functions with the loads and stores that the kernels do in Triton's interpreter.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from musicgen.model.decoder.triton_launch import SPLIT_POSITIONS


@dataclass(frozen=True)
class MeanLengths:
    """Positions of a row that are live, its newest included, and text states, on average over the step's tokens."""

    positions: float
    text: float


def launch_bytes(name: str, args: tuple[Any, ...], results: list[Tensor], lengths: MeanLengths) -> float:
    """The bytes of one launch of `torch.ops.musicgen.<name>` with these arguments."""
    return _FUNCTIONS[name](args, results, lengths)


def _append_and_attend(args: tuple[Any, ...], results: list[Tensor], lengths: MeanLengths) -> float:
    """It reads query, key and value of each token, and the cache before them, and writes the newest position."""
    qkv, rows, of_rows, keys, _ = args
    newest = 2 * qkv.shape[0] * _position_bytes(keys)
    cached = newest * (lengths.positions - 1)
    return _bytes(qkv, rows, of_rows, *results) + cached + newest


def _append_and_attend_in_parts(args: tuple[Any, ...], results: list[Tensor], lengths: MeanLengths) -> float:
    """The same, but of the parts only the live ones are written."""
    return _append_and_attend(args, [], lengths) + _live_part_bytes(results[0], lengths)


def _combine_parts(args: tuple[Any, ...], results: list[Tensor], lengths: MeanLengths) -> float:
    parts, of_rows, _ = args
    return _live_part_bytes(parts, lengths) + _bytes(of_rows, *results)


def _attend_stored(args: tuple[Any, ...], results: list[Tensor], lengths: MeanLengths) -> float:
    q, rows, of_rows, keys, _ = args
    return _bytes(q, rows, of_rows, *results) + 2 * q.shape[0] * _position_bytes(keys) * lengths.text


def _norm_residual(args: tuple[Any, ...], results: list[Tensor], lengths: MeanLengths) -> float:
    """It reads x, delta and the norm's weights, and writes the rows of x that delta changes, and the result."""
    x, delta, weight, bias, _ = args
    changed = 0 if delta is None else _bytes(delta) + 4 * delta.numel()
    return _bytes(x, weight, bias, *results) + changed


def _gelu_cast(args: tuple[Any, ...], results: list[Tensor], lengths: MeanLengths) -> float:
    return _bytes(args[0], *results)


def _embed_step(args: tuple[Any, ...], results: list[Tensor], lengths: MeanLengths) -> float:
    """Each token's rows of the tables; tokens of one clip read the same codes and embeddings."""
    sequence, _, slots, clips, of_rows, embeddings, positions = args
    codebooks, hidden = sequence.shape[1], embeddings.shape[1]
    by_clip = slots.shape[0] * (codebooks * (8 + hidden * embeddings.element_size()) + 8 + 8)
    return by_clip + _bytes(clips, of_rows, *results) + clips.shape[0] * hidden * positions.element_size()


def _sample_step(args: tuple[Any, ...], results: list[Tensor], lengths: MeanLengths) -> float:
    """All logits, the clips' parameters, and the codes that are read and written."""
    logits, _, _, slots, *columns = args
    return _bytes(logits, slots, *columns) + slots.shape[0] * (8 + logits.shape[1] * 2 * 8)


def _advance_step(args: tuple[Any, ...], results: list[Tensor], lengths: MeanLengths) -> float:
    _, slots, advance, of_rows, clips = args
    return _bytes(slots, advance, clips, of_rows, of_rows) + 2 * 8 * slots.shape[0]


def _position_bytes(store: Tensor) -> int:
    """One position of one row in keys or values [rows, heads, capacity, dim]."""
    return store.shape[1] * store.shape[3] * store.element_size()


def _live_part_bytes(parts: Tensor, lengths: MeanLengths) -> float:
    live = max(1, -(-(lengths.positions - 1) // SPLIT_POSITIONS))
    return parts.numel() / parts.shape[2] * live * 4


def _bytes(*tensors: Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


_FUNCTIONS: dict[str, Callable[[tuple[Any, ...], list[Tensor], MeanLengths], float]] = {
    "append_and_attend": _append_and_attend,
    "append_and_attend_in_parts": _append_and_attend_in_parts,
    "combine_parts": _combine_parts,
    "attend_stored": _attend_stored,
    "norm_residual": _norm_residual,
    "gelu_cast": _gelu_cast,
    "embed_step": _embed_step,
    "sample_step": _sample_step,
    "advance_step": _advance_step,
}
