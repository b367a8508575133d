"""From logits to codes: guidance, temperature, top-p or else top-k, and a sample by the Gumbel-max trick.

Order and meaning are audiocraft's (`LMModel._sample_next_token`); the set of codes that stays equals that of
transformers' logits warpers. Every parameter is a tensor with one value per clip, so there is no loop over clips and
nothing is read back from the device.

Where a clip's guided logits are not finite, its code is the special token (the id `size`), which is never sampled and
which the decoder can embed: the step goes on for the other clips, and `Sequence.fill_window` raises when the window is
finished.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from musicgen.engine.philox import draw_uniforms

# One clip's parameters as the CPU kernel reads them (struct Choice of musicgen/model/decoder/kernels/sampling.h).
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
    """The sampling parameters of a step's clips.

    `cond`, `other` and `null` are rows of the logits (see `Conditions`).
    """

    table: NDArray[np.void]  # SAMPLING_PARAMS_DTYPE [clips]
    columns: dict[str, Tensor]  # the same by name, [clips] each, on the device
    any_top_p: bool  # known on the host, so that the sort is skipped where no clip needs it
    any_top_k: bool

    @classmethod
    def from_table(cls, table: NDArray[np.void], device: torch.device) -> "SamplingParams":
        """Copy a table of SAMPLING_PARAMS_DTYPE to the device, column by column."""
        names = SAMPLING_PARAMS_DTYPE.names or ()
        columns = {name: torch.from_numpy(table[name].copy()).to(device) for name in names}
        has_top_p = table["top_p"] > 0
        return cls(table, columns, bool(has_top_p.any()), bool(((table["top_k"] > 0) & ~has_top_p).any()))


def sample_codes(logits: Tensor, params: SamplingParams, steps: Tensor) -> Tensor:
    """Sample codes int64 [clips, codebooks] from logits float32 [rows, codebooks, size]; steps [clips] count within the
    window.
    """
    guided = apply_guidance(logits, params)
    filtered = filter_logits(guided, params)
    columns = params.columns
    uniforms = draw_uniforms(columns["seed"], columns["window"].long(), steps.long(), *filtered.shape[1:])
    gumbel = -torch.log(-torch.log(uniforms))
    greedy = (columns["temperature"] <= 0)[:, None, None]
    codes = torch.where(greedy, filtered.double(), filtered.double() + gumbel).argmax(-1)
    return codes.masked_fill(~guided.isfinite().all(-1), logits.shape[-1])


def apply_guidance(logits: Tensor, params: SamplingParams) -> Tensor:
    """Mix the rows of each clip: logits [rows, codebooks, size] -> float32 [clips, codebooks, size].

    A clip without guidance names the same row three times, and that row stays as it is.
    """
    columns = params.columns
    cond, other, null = (logits[columns[name].long()] for name in ("cond", "other", "null"))
    scale, beta = columns["scale"][:, None, None], columns["beta"][:, None, None]
    has_other = (columns["other"] != columns["cond"])[:, None, None]
    has_null = (columns["null"] != columns["cond"])[:, None, None]
    mixed = torch.where(has_other, other + (cond - other) * beta, cond)
    return torch.where(has_null, null + (mixed - null) * scale, mixed)


def filter_logits(logits: Tensor, params: SamplingParams) -> Tensor:
    """Divide logits float32 [clips, codebooks, size] by the temperature, and put -inf where top-p (else top-k) drops a
    code.
    """
    columns, size = params.columns, logits.shape[-1]
    temperature, top_p = columns["temperature"][:, None, None], columns["top_p"][:, None, None]
    logits = logits / temperature.masked_fill(temperature <= 0, 1.0)
    if not (params.any_top_k or params.any_top_p):
        return logits
    descending = logits.sort(dim=-1, descending=True).values
    top_k = columns["top_k"]
    k = top_k.masked_fill((top_k <= 0) | (top_k >= size), size)[:, None, None]
    last = (k - 1).long().expand(-1, logits.shape[1], 1)  # rank of the least likely code that stays
    if params.any_top_p:
        probabilities = torch.softmax(descending.double(), dim=-1)
        mass_before = probabilities.cumsum(-1) - probabilities
        nucleus = (mass_before < top_p).sum(-1, keepdim=True).clamp_min(1) - 1
        last = torch.where(top_p > 0, nucleus, last)
    return logits.masked_fill(logits < descending.gather(-1, last), -torch.inf)
