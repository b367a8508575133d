"""What lies between a layer's products: residual, layer norm and cast in one kernel, GELU and cast in another."""

import triton
import triton.language as tl


@triton.jit
def norm_kernel(
    x_ptr,  # float32 [rows, HIDDEN], changed in place
    delta_ptr,  # [delta_rows, HIDDEN]
    delta_rows,
    weight_ptr,
    bias_ptr,
    out_ptr,  # [rows, HIDDEN]
    HIDDEN: tl.constexpr,
    HIDDEN_PADDED: tl.constexpr,
):
    """Add delta to the first rows of x, and write the layer norm of x. One program has a row."""
    row = tl.program_id(0)
    d = tl.arange(0, HIDDEN_PADDED)
    inside = d < HIDDEN
    at = row.to(tl.int64) * HIDDEN + d
    x = tl.load(x_ptr + at, mask=inside, other=0.0)
    if row < delta_rows:
        x += tl.load(delta_ptr + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(x_ptr + at, x, mask=inside)
    mean = tl.sum(x, 0) / HIDDEN
    centered = tl.where(inside, x - mean, 0.0)
    variance = tl.sum(centered * centered, 0) / HIDDEN
    weight = tl.load(weight_ptr + d, mask=inside, other=0.0)
    bias = tl.load(bias_ptr + d, mask=inside, other=0.0)
    out = centered * (1.0 / tl.sqrt_rn(variance + 1e-5)) * weight + bias
    tl.store(out_ptr + at, out.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def gelu_kernel(x_ptr, out_ptr, count, BLOCK: tl.constexpr):
    """Write the exact GELU of `count` numbers, in the dtype of `out_ptr`."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
    out = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    tl.store(out_ptr + at, out.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def embed_kernel(
    sequence_ptr,  # int64 [slots, CODEBOOKS, steps]
    steps,
    at_ptr,  # int64 [slots]
    slots_ptr,  # int64 [clips]
    clips_ptr,  # int64 [tokens]
    lengths_ptr,  # int32 [tokens]
    embeddings_ptr,  # [CODEBOOKS * ENTRIES, HIDDEN]
    positions_ptr,  # float32 [positions, HIDDEN]
    out_ptr,  # float32 [tokens, HIDDEN]
    CODEBOOKS: tl.constexpr,
    ENTRIES: tl.constexpr,
    HIDDEN: tl.constexpr,
    HIDDEN_PADDED: tl.constexpr,
):
    """Sum the embeddings of the codes that a token's clip reads next, one by one, and the sinusoids of its position."""
    token = tl.program_id(0)
    slot = tl.load(slots_ptr + tl.load(clips_ptr + token))
    code_at = sequence_ptr + slot * CODEBOOKS * steps + tl.load(at_ptr + slot)
    position = (tl.load(lengths_ptr + token) - 1).to(tl.int64)
    d = tl.arange(0, HIDDEN_PADDED)
    inside = d < HIDDEN
    out = tl.load(embeddings_ptr + tl.load(code_at) * HIDDEN + d, mask=inside, other=0.0).to(tl.float32)
    for codebook in tl.static_range(1, CODEBOOKS):
        entry = codebook * ENTRIES + tl.load(code_at + codebook * steps)
        out += tl.load(embeddings_ptr + entry * HIDDEN + d, mask=inside, other=0.0).to(tl.float32)
    out += tl.load(positions_ptr + position * HIDDEN + d, mask=inside, other=0.0)
    tl.store(out_ptr + token.to(tl.int64) * HIDDEN + d, out, mask=inside)
