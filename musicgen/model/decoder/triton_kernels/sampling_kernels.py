"""From logits to codes as in `musicgen/engine/sampling.py`, one program for each clip and codebook.

Top-k and top-p need no sort: the least logit that stays is found bit by bit, by adding up what lies at or above a
candidate. The sums are of float64, as in the torch path.
"""

import triton
import triton.language as tl

_SIGN = tl.constexpr(0x80000000)
_ALL_BITS = tl.constexpr(0xFFFFFFFF)


@triton.jit
def least_kept_key(keys, weights, target):
    """The greatest uint32 T for which the weights of all keys >= T add up to `target` at least (0 if none does)."""
    least = tl.zeros([], tl.uint32)
    bit = tl.full([], _SIGN, tl.uint32)
    for _ in range(32):
        candidate = least | bit
        mass = tl.sum(tl.where(keys >= candidate, weights, 0.0), 0)
        least = tl.where(mass >= target, candidate, least)
        bit = bit >> 1
    return least


@triton.jit
def sample_kernel(
    logits_ptr,  # float32 [rows, CODEBOOKS, SIZE]
    sequence_ptr,  # int64 [slots, CODEBOOKS, steps]: the next step's codes are written where they are negative
    steps,
    at_ptr,  # int64 [slots]: the step before
    slots_ptr,  # int64 [clips]
    cond_ptr,  # the clips' parameters: SAMPLING_PARAMS_DTYPE of musicgen/engine/sampling.py, column by column
    other_ptr,
    null_ptr,
    scale_ptr,
    beta_ptr,
    temperature_ptr,
    top_p_ptr,
    top_k_ptr,
    window_ptr,
    seed_ptr,
    CODEBOOKS: tl.constexpr,
    SIZE: tl.constexpr,
    SIZE_PADDED: tl.constexpr,
):
    """Guide, filter and draw the codes of one clip and codebook, and write them into its sequence."""
    clip, codebook = tl.program_id(0), tl.program_id(1)
    slot = tl.load(slots_ptr + clip)
    step = tl.load(at_ptr + slot) + 1
    code_ptr = sequence_ptr + (slot * CODEBOOKS + codebook) * steps + step
    if tl.load(code_ptr) < 0:
        entry = tl.arange(0, SIZE_PADDED)
        inside = entry < SIZE
        cond, other = tl.load(cond_ptr + clip).to(tl.int64), tl.load(other_ptr + clip).to(tl.int64)
        null = tl.load(null_ptr + clip).to(tl.int64)
        at = logits_ptr + codebook * SIZE + entry
        mixed = tl.load(at + cond * CODEBOOKS * SIZE, mask=inside, other=0.0).to(tl.float32)
        if other != cond:
            base = tl.load(at + other * CODEBOOKS * SIZE, mask=inside, other=0.0).to(tl.float32)
            mixed = base + (mixed - base) * tl.load(beta_ptr + clip)
        if null != cond:
            base = tl.load(at + null * CODEBOOKS * SIZE, mask=inside, other=0.0).to(tl.float32)
            mixed = base + (mixed - base) * tl.load(scale_ptr + clip)
        unusable = tl.sum(tl.where(tl.abs(mixed) <= 3.4028234663852886e38, 0, 1), 0)  # infinite or not a number
        temperature = tl.load(temperature_ptr + clip)
        x = tl.div_rn(mixed, tl.where(temperature > 0, temperature, 1.0)) + 0.0  # -0 becomes 0, which it equals
        x = tl.where(inside, x, float("-inf"))
        bits = x.to(tl.uint32, bitcast=True)
        keys = tl.where(bits >= _SIGN, bits ^ _ALL_BITS, bits | _SIGN)  # ordered as the numbers are
        top_p, top_k = tl.load(top_p_ptr + clip), tl.load(top_k_ptr + clip)
        least = tl.zeros([], tl.uint32)
        if top_p > 0:
            weights = tl.exp(x.to(tl.float64) - tl.max(x, 0).to(tl.float64))
            least = least_kept_key(keys, weights, top_p.to(tl.float64) * tl.sum(weights, 0))
        elif (top_k > 0) & (top_k < SIZE):
            least = least_kept_key(keys, tl.where(inside, 1, 0).to(tl.float64), top_k.to(tl.float64))
        score = x.to(tl.float64)
        if temperature > 0:
            group = (entry // 4).to(tl.uint32)
            zeros = group * 0
            seed = tl.load(seed_ptr + clip)
            w0, w1, w2, w3 = tl.philox(
                seed,
                group,
                zeros + codebook.to(tl.uint32),
                zeros + step.to(tl.uint32),
                zeros + tl.load(window_ptr + clip).to(tl.uint32),
            )
            word = tl.where(entry % 4 < 2, tl.where(entry % 4 < 1, w0, w1), tl.where(entry % 4 < 3, w2, w3))
            uniform = (word.to(tl.float64) + 0.5) * 2.0**-32
            score = score - tl.log(-tl.log(uniform))  # Gumbel-max
        score = tl.where(inside & (keys >= least), score, float("-inf"))
        code = tl.where(unusable > 0, SIZE, tl.argmax(score, 0))
        tl.store(code_ptr, code.to(tl.int64))


@triton.jit
def advance_kernel(at_ptr, slots_ptr, advance_ptr, clips, lengths_ptr, clip_of_ptr, tokens, BLOCK: tl.constexpr):
    """Add `advance` int64 [clips] to the clips' steps int64 [slots] and to their tokens' lengths int32 [tokens]."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    slot = tl.load(slots_ptr + i, mask=i < clips, other=0)
    step = tl.load(at_ptr + slot, mask=i < clips, other=0)
    tl.store(at_ptr + slot, step + tl.load(advance_ptr + i, mask=i < clips, other=0), mask=i < clips)
    clip = tl.load(clip_of_ptr + i, mask=i < tokens, other=0)
    length = tl.load(lengths_ptr + i, mask=i < tokens, other=0)
    length += tl.load(advance_ptr + clip, mask=i < tokens, other=0).to(tl.int32)
    tl.store(lengths_ptr + i, length, mask=i < tokens)
