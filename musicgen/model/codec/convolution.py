"""The codec's products, float32: on a CPU by the compiled kernels and one thread, else by torch.

On a CPU the caller is a background worker with one thread (musicgen/conditioning/workers.py), and the order of every
sum depends on one clip's data alone.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from musicgen.model.decoder.cpu_ops import CpuOps, load_library

_PIECE_FRAMES = 256  # of a piece of a recurrence: 4 MB of gates

ConvolutionProduct = Callable[[Tensor], Tensor]  # [time + taps - 1, in], contiguous -> [time, out]


def build_convolution(weight: Tensor, bias: Tensor) -> ConvolutionProduct:
    """Build a convolution without padding: y[t] = bias + the sum over taps k of weight[:, :, k] x[t + k].

    Weight [out, in, taps].
    """
    library = "on a GPU" if weight.is_cuda else load_library()
    if isinstance(library, str) or weight.shape[1] * weight.shape[2] % 2:  # the kernels take pairs of inputs
        return _TorchProduct(weight, bias)
    return _KernelProduct(CpuOps(library, torch.float32, threads=1), weight, bias)


class _TorchProduct:
    """A convolution tap by tap: each tap is a product of shifted rows."""

    def __init__(self, weight: Tensor, bias: Tensor):
        self.taps = [tap.T.contiguous() for tap in weight.unbind(-1)]  # [in, out] each
        self.bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        time = x.shape[0] - len(self.taps) + 1
        y = torch.addmm(self.bias, x[:time], self.taps[0])
        for k in range(1, len(self.taps)):
            y.addmm_(x[k : k + time], self.taps[k])
        return y


class _KernelProduct:
    """A convolution with all taps in one product: its row t is rows t .. t + taps - 1 of x, which are adjacent in
    memory.
    """

    def __init__(self, ops: CpuOps, weight: Tensor, bias: Tensor):
        self.library = ops.library
        self.inputs, self.taps = weight.shape[1:]
        self.weight = ops.pack(weight.transpose(1, 2).flatten(1))  # [out, taps * in]
        panel = 2 * ops.lanes
        self.bias = torch.nn.functional.pad(bias.float(), (0, -len(bias) % panel)).contiguous()
        self.scratch = ops.library.convolve_rows() * self.weight.depth

    def __call__(self, x: Tensor) -> Tensor:
        time = x.shape[0] - self.taps + 1
        y = torch.empty(time, self.weight.columns)
        scratch = torch.empty(self.scratch)  # one per call, because several threads share the weights
        self.library.convolve_fp32(
            x.data_ptr(), self.inputs, time, self.weight.depth, self.weight.data.data_ptr(), self.weight.columns,
            self.bias.data_ptr(),
            y.data_ptr(), scratch.data_ptr(),
        )  # fmt: skip
        return y


class Recurrence:
    """An LSTM plus its input, over several sequences at once: its weights, most of its cost, are read once for all of
    them.
    """

    def __init__(self, lstm: Any):
        self.lstm = lstm
        library = "on a GPU" if lstm.weight_hh_l0.is_cuda else load_library()
        native = not isinstance(library, str) and lstm.hidden_size % 16 == 0
        self.layers = [_LstmLayer(library, lstm, i) for i in range(lstm.num_layers)] if native else None

    def __call__(self, sequences: Sequence[Tensor]) -> list[Tensor]:
        """Run sequences [time, hidden] -> the same shapes. A sequence's result does not depend on the others."""
        if self.layers is None:
            return [self.lstm(x[:, None])[0][:, 0] + x for x in sequences]
        out = [x.clone() for x in sequences]
        order = sorted(
            range(len(sequences)), key=lambda i: -len(sequences[i])
        )  # the longest first: those that go on lie together
        states = [layer.begin(len(sequences)) for layer in self.layers]
        for start in range(0, len(sequences[order[0]]), _PIECE_FRAMES):
            piece = [sequences[i][start : start + _PIECE_FRAMES] for i in order if len(sequences[i]) > start]
            for layer, state in zip(self.layers, states, strict=True):
                piece = layer.run(piece, state)
            for i, result in zip(order, piece, strict=False):
                out[i][start : start + _PIECE_FRAMES] += result
        return out


class _LstmLayer:
    """One layer of an LSTM, by the compiled kernels."""

    def __init__(self, library: Any, lstm: Any, number: int):
        self.library = library
        self.hidden = lstm.hidden_size
        given, own = (getattr(lstm, f"{name}_l{number}") for name in ("weight_ih", "weight_hh"))
        biases = getattr(lstm, f"bias_ih_l{number}") + getattr(lstm, f"bias_hh_l{number}")
        self.given = build_convolution(given[:, :, None], biases)
        self.own = CpuOps(library, torch.float32, threads=1).pack(own)

    def begin(self, sequences: int) -> Tensor:
        """Return state and cell before the first frame, zeros [2, sequences, hidden]."""
        return torch.zeros(2, sequences, self.hidden)

    def run(self, sequences: list[Tensor], state: Tensor) -> list[Tensor]:
        """Run the next [time, hidden] of sequences, longest first, and update `state` in place."""
        gates = [self.given(x) for x in sequences]  # [time, 4 * hidden] each
        out = [torch.empty(len(x), self.hidden) for x in sequences]
        lengths = torch.tensor([len(x) for x in sequences], dtype=torch.int32)
        given, made = (torch.tensor([t.data_ptr() for t in tensors]) for tensors in (gates, out))
        self.library.recur_fp32(
            len(sequences), lengths.data_ptr(), given.data_ptr(), self.own.data.data_ptr(), self.hidden,
            state[0].data_ptr(),
            state[1].data_ptr(), made.data_ptr(),
        )  # fmt: skip
        return out
