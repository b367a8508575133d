"""Traces the codec on fake CUDA tensors: the structure of the published EnCodec, at small widths."""

import numpy as np
import torch

from musicgen.model.codec.encodec import EnCodec
from tests.cuda_trace.models import make_spec
from tests.cuda_trace.trace import EventCost, run_event

FRAMES = 20  # the recurrence is traced step by step


def trace_codec() -> list[EventCost]:
    """Decode a clip."""
    from transformers import EncodecConfig, EncodecModel

    device = torch.device("cuda", 0)
    config = EncodecConfig(
        sampling_rate=32_000, num_filters=4, hidden_size=16, codebook_dim=16, codebook_size=64,
        upsampling_ratios=[8, 5, 4, 4], target_bandwidths=[2.2], use_causal_conv=False,
    )  # fmt: skip
    with device:
        model = EncodecModel(config)
    for module in model.modules():
        if torch.nn.utils.parametrize.is_parametrized(module):
            torch.nn.utils.parametrize.remove_parametrizations(module, "weight")
    codec = EnCodec(model.eval().requires_grad_(False), make_spec("small"))
    codes = np.zeros((4, FRAMES), np.int16)
    return [run_event("decode", "text", lambda: EnCodec.decode_all.__wrapped__(codec, [codes]))]
