"""From logits to codes: guidance, temperature, top-p or else top-k, and a draw by the Gumbel-max trick.

Order and meaning are audiocraft's (`LMModel._sample_next_token`); the kept set equals transformers' logits warpers'. Every
parameter is a tensor with one value per clip: no loop over clips, nothing read back from the device.

Where a clip's mixed logits are not finite, its code is the special token (the id `size`), which is never drawn and which
the decoder can embed: the step goes on for the others, and `Sequence.fill_window` finds it when the window is finished.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from musicgen.engine.philox import draw_uniforms

# One clip's choices as the CPU kernel reads them (struct Choice of model/kernels/sampling.h).
SAMPLING_PARAMS_DTYPE = np.dtype(
    [
        ("cond", np.int32),
        ("other", np.int32),
        ("null", np.int32),
        ("scale", np.float32),
        ("beta", np.float32),
        ("temperature", np.float32),
        ("top_p", np.float32),
        ("top_k", np.int32),
        ("window", np.int32),
        ("seed", np.int64),
    ],
    align=True,
)


@dataclass(frozen=True, slots=True, eq=False)
class SamplingParams:
    """What a step's clips sample by, [clips] each. `cond`, `other` and `null` are rows of the logits (see `Conditions`)."""

    table: np.ndarray  # SAMPLING_PARAMS_DTYPE [clips]
    columns: dict[str, Tensor]
    any_top_p: bool  # so that the sort is skipped where nobody needs it
    any_top_k: bool

    @classmethod
    def from_table(cls, table: np.ndarray, device: torch.device) -> "SamplingParams":
        """From a table of SAMPLING_PARAMS_DTYPE."""
        columns = {
            name: torch.from_numpy(np.ascontiguousarray(table[name])).to(device)
            for name in SAMPLING_PARAMS_DTYPE.names or ()
        }
        top_p = table["top_p"] > 0
        return cls(table, columns, bool(top_p.any()), bool(((table["top_k"] > 0) & ~top_p).any()))


def sample_codes(logits: Tensor, choices: SamplingParams, steps: Tensor) -> Tensor:
    """Codes int64 [clips, codebooks] from logits float32 [rows, codebooks, size]; steps [clips] count within the window."""
    guided = apply_guidance(logits, choices)
    mixed = filter_logits(guided, choices)
    column = choices.columns
    noise = -torch.log(
        -torch.log(draw_uniforms(column["seed"], column["window"].long(), steps.long(), *mixed.shape[1:]))
    )
    greedy = (column["temperature"] <= 0)[:, None, None]
    drawn = torch.where(greedy, mixed.double(), mixed.double() + noise).argmax(-1)
    return drawn.masked_fill(~guided.isfinite().all(-1), logits.shape[-1])


def apply_guidance(logits: Tensor, choices: SamplingParams) -> Tensor:
    """Mix each clip's rows: float32 [clips, codebooks, size]. Without guidance all three rows are one, and stay as they are."""
    column = choices.columns
    cond, other, null = (logits[column[name].long()] for name in ("cond", "other", "null"))
    scale, beta = column["scale"][:, None, None], column["beta"][:, None, None]
    double = (column["other"] != column["cond"])[:, None, None]
    guided = (column["null"] != column["cond"])[:, None, None]
    mixed = torch.where(double, other + (cond - other) * beta, cond)
    return torch.where(guided, null + (mixed - null) * scale, mixed)


def filter_logits(logits: Tensor, choices: SamplingParams) -> Tensor:
    """Logits over temperature, -inf where top-p (else top-k) drops them."""
    column, size = choices.columns, logits.shape[-1]
    temperature, top_p = column["temperature"][:, None, None], column["top_p"][:, None, None]
    logits = logits / temperature.masked_fill(temperature <= 0, 1.0)
    if not (choices.any_top_k or choices.any_top_p):
        return logits
    ordered = logits.sort(dim=-1, descending=True).values
    k = column["top_k"].masked_fill((column["top_k"] <= 0) | (column["top_k"] >= size), size)[:, None, None]
    last = (k - 1).long().expand(-1, logits.shape[1], 1)
    if choices.any_top_p:
        p = torch.softmax(ordered.double(), dim=-1)
        nucleus = ((p.cumsum(-1) - p) < top_p).sum(-1, keepdim=True).clamp_min(1) - 1
        last = torch.where(top_p > 0, nucleus, last)
    return logits.masked_fill(logits < ordered.gather(-1, last), -torch.inf)
