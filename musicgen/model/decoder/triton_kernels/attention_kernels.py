"""Attention of one query a row to the row's live positions, read from the cache as it lies (flash decoding, Dao 2023).

A program has one head of one token. It keeps a softmax of its own in each of BLOCK lanes (Milakov & Gimelshein 2018,
"Online normalizer calculation for softmax"), lane i for the positions i, BLOCK + i, ..., and merges the lanes once at
the end. The order of all sums follows from the row's length alone, so a row's bits depend on no other row.
"""

import triton
import triton.language as tl


@triton.jit
def attend_kernel(
    q_ptr,  # [tokens, ...]: the query, and with APPEND key and value behind it, HEADS * DIM each
    q_stride,
    keys_ptr,  # [rows, HEADS, capacity, DIM]
    values_ptr,
    capacity,
    rows_ptr,  # int32 [tokens]
    lengths_ptr,  # int32 [tokens]
    out_ptr,  # [tokens, HEADS, DIM]; with SPLIT the parts, float32 [tokens, HEADS, parts, DIM + 2]
    scale,  # of the scores, times log2(e)
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    DIM_PADDED: tl.constexpr,
    BLOCK: tl.constexpr,
    SPLIT: tl.constexpr,  # positions of one program; 0: all
    APPEND: tl.constexpr,  # write the token's key and value to position length - 1 on the way
):
    """Attend from one token and head to its positions in the cache; with APPEND its key and value come first."""
    head, token, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    length = tl.load(lengths_ptr + token)
    row = tl.load(rows_ptr + token).to(tl.int64)
    stored = length  # positions that are read from the cache
    if APPEND:
        stored = length - 1
    d = tl.arange(0, DIM_PADDED)
    in_head = d < DIM
    base = (row * HEADS + head) * capacity * DIM
    q_at = q_ptr + token.to(tl.int64) * q_stride + head * DIM + d
    q = tl.load(q_at, mask=in_head, other=0.0).to(tl.float32) * scale
    begin, end = 0, stored
    if SPLIT:
        begin = part * SPLIT
        end = tl.minimum(stored, begin + SPLIT)
    lane = tl.arange(0, BLOCK)
    lane_max = tl.full([BLOCK], -1e30, tl.float32)
    lane_sum = tl.zeros([BLOCK], tl.float32)
    lane_out = tl.zeros([BLOCK, DIM_PADDED], tl.float32)
    for start in range(begin, end, BLOCK):
        is_live = start + lane < end
        at = base + (start + lane)[:, None] * DIM + d[None, :]
        mask = is_live[:, None] & in_head[None, :]
        k = tl.load(keys_ptr + at, mask=mask, other=0.0).to(tl.float32)
        v = tl.load(values_ptr + at, mask=mask, other=0.0).to(tl.float32)
        score = tl.where(is_live, tl.sum(k * q[None, :], 1), float("-inf"))
        new_max = tl.maximum(lane_max, score)
        weight, rescale = tl.exp2(score - new_max), tl.exp2(lane_max - new_max)
        lane_sum = lane_sum * rescale + weight
        lane_out = lane_out * rescale[:, None] + weight[:, None] * v
        lane_max = new_max
    top = tl.max(lane_max, 0)
    rescale = tl.exp2(lane_max - top)
    total = tl.sum(lane_sum * rescale, 0)
    out = tl.sum(lane_out * rescale[:, None], 0)
    if APPEND and part == 0:  # the new position from registers: no barrier is needed between its write and a read
        k_new = tl.load(q_at + HEADS * DIM, mask=in_head, other=0.0).to(keys_ptr.dtype.element_ty)
        v_new = tl.load(q_at + 2 * HEADS * DIM, mask=in_head, other=0.0).to(values_ptr.dtype.element_ty)
        new_at = base + stored * DIM + d
        tl.store(keys_ptr + new_at, k_new, mask=in_head)
        tl.store(values_ptr + new_at, v_new, mask=in_head)
        score_new = tl.sum(q * k_new.to(tl.float32), 0)
        new_top = tl.maximum(top, score_new)
        weight_new, rescale_old = tl.exp2(score_new - new_top), tl.exp2(top - new_top)
        total = total * rescale_old + weight_new
        out = out * rescale_old + weight_new * v_new.to(tl.float32)
        top = new_top
    if SPLIT:
        if part == 0 or begin < stored:  # others are not read
            part_at = out_ptr + ((token * HEADS + head) * tl.num_programs(2) + part) * (DIM + 2)
            tl.store(part_at + d, out, mask=in_head)
            tl.store(part_at + DIM, top)
            tl.store(part_at + DIM + 1, total)
    else:
        out = out / tl.maximum(total, 1e-30)
        tl.store(out_ptr + (token * HEADS + head) * DIM + d, out.to(out_ptr.dtype.element_ty), mask=in_head)


@triton.jit
def combine_kernel(
    parts_ptr,  # float32 [tokens, HEADS, parts, DIM + 2]
    parts,
    lengths_ptr,
    out_ptr,  # [tokens, HEADS, DIM]
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    DIM_PADDED: tl.constexpr,
    SPLIT: tl.constexpr,
):
    """Merge the parts that `attend_kernel` with SPLIT and APPEND left, one after the other."""
    head, token = tl.program_id(0), tl.program_id(1)
    stored = tl.load(lengths_ptr + token) - 1
    d = tl.arange(0, DIM_PADDED)
    in_head = d < DIM
    at = parts_ptr + (token * HEADS + head) * parts * (DIM + 2)
    out = tl.load(at + d, mask=in_head, other=0.0)
    top, total = tl.load(at + DIM), tl.load(at + DIM + 1)
    for _ in range(SPLIT, stored, SPLIT):
        at += DIM + 2
        part_out = tl.load(at + d, mask=in_head, other=0.0)
        part_top, part_total = tl.load(at + DIM), tl.load(at + DIM + 1)
        new_top = tl.maximum(top, part_top)
        rescale, part_rescale = tl.exp2(top - new_top), tl.exp2(part_top - new_top)
        total = total * rescale + part_total * part_rescale
        out = out * rescale + part_out * part_rescale
        top = new_top
    out = out / tl.maximum(total, 1e-30)
    tl.store(out_ptr + (token * HEADS + head) * DIM + d, out.to(out_ptr.dtype.element_ty), mask=in_head)
