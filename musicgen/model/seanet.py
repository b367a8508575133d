"""EnCodec's decoder as matrix products: on a CPU two thirds of the time that torch's convolutions take (measured: AVX2, float32).

The network is SEANet (Tagliasacchi et al. 2020; Défossez et al. 2022, section 3.1), its weights are transformers'. Sound is
laid out [time, channels], so that one tap of a convolution is one product of shifted rows, and a transposed convolution
whose kernel is twice its stride is two: of each frame, and of the frame before it.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

Stage = Callable[[Tensor], Tensor]  # [time, channels] -> [time', channels']


def stages(layers: Iterable[Any]) -> list[Stage] | None:
    """The layers of transformers' `EncodecDecoder`, weight norm folded, one stage each; None for a kind that needs its modules.

    The stage of the LSTM is its module: the caller runs it.
    """
    built: list[Stage] = []
    for layer in layers:
        kind = type(layer).__name__
        if kind == "EncodecLSTM":
            built.append(_Recurrence(layer))
        elif kind == "ELU":
            built.append(nn.functional.elu)
        elif kind == "EncodecConv1d" and _plain(layer):
            built.append(Convolution(layer))
        elif kind == "EncodecConvTranspose1d" and _plain(layer) and layer.conv.kernel_size[0] == 2 * layer.conv.stride[0]:
            built.append(Upsampling(layer))
        elif kind == "EncodecResnetBlock" and all(_plain(part) for part in layer.block if not isinstance(part, nn.ELU)):
            built.append(Residual(layer))
        else:
            return None
    return built


def _plain(layer: Any) -> bool:
    return not layer.causal and layer.norm_type == "weight_norm" and getattr(layer, "pad_mode", "reflect") == "reflect"


class Convolution:
    """A convolution of stride 1 with reflection at the ends; `activate` puts an ELU in front."""

    def __init__(self, layer: Any, activate: bool = False):
        weight: Tensor = layer.conv.weight  # [out, in, taps]
        self.taps = [tap.T.contiguous() for tap in weight.unbind(-1)]  # [in, out] each
        self.few = weight.permute(1, 2, 0).reshape(weight.shape[1], -1).contiguous() if weight.shape[0] <= 2 else None
        self.bias: Tensor = layer.conv.bias
        self.dilation: int = layer.conv.dilation[0]
        self.activate = activate
        padding = (len(self.taps) - 1) * self.dilation
        self.right = padding // 2
        self.left = padding - self.right

    def __call__(self, x: Tensor) -> Tensor:
        """[time, in] -> [time, out]."""
        time = x.shape[0]
        padded = self._pad(x)
        if self.few is not None:  # the last one: all taps at once, then shifted sums of narrow columns
            products = (padded @ self.few).view(padded.shape[0], len(self.taps), -1)  # [time + padding, taps, out]
            y = self.bias + products[:time, 0]
            for k in range(1, len(self.taps)):
                y += products[k * self.dilation : k * self.dilation + time, k]
            return y
        y = torch.addmm(self.bias, padded[:time], self.taps[0])
        for k in range(1, len(self.taps)):
            y.addmm_(padded[k * self.dilation : k * self.dilation + time], self.taps[k])
        return y

    def _pad(self, x: Tensor) -> Tensor:
        left, right, time = self.left, self.right, x.shape[0]
        padded = x.new_empty(left + time + right, x.shape[1])
        inside = padded[left : left + time]
        if self.activate:
            torch.ops.aten.elu.out(x, out=inside)
        else:
            inside.copy_(x)
        if left:
            padded[:left] = inside[1 : left + 1].flip(0)
        if right:
            padded[-right:] = inside[-right - 1 : -1].flip(0)
        return padded


class Upsampling:
    """A transposed convolution with kernel 2r and stride r: r samples for each one, trimmed at both ends."""

    def __init__(self, layer: Any):
        weight: Tensor = layer.conv.weight  # [in, out, 2r]
        self.stride: int = layer.conv.stride[0]
        flat = weight.permute(0, 2, 1)  # [in, 2r, out]
        self.now = flat[:, : self.stride].reshape(weight.shape[0], -1).contiguous()  # [in, r * out]
        self.before = flat[:, self.stride :].reshape(weight.shape[0], -1).contiguous()
        self.bias = layer.conv.bias.repeat(self.stride)
        self.out: int = weight.shape[1]

    def __call__(self, x: Tensor) -> Tensor:
        """[time, in] -> [time * r, out]."""
        padded = nn.functional.pad(x, (0, 0, 1, 1))
        y = torch.addmm(self.bias, padded[1:], self.now)
        y.addmm_(padded[:-1], self.before)  # [time + 1, r * out]
        first = self.stride - self.stride // 2
        return y.view(-1, self.out)[first : first + x.shape[0] * self.stride]


class Residual:
    """A residual block: ELU and convolution, twice, beside the identity or a convolution of one tap."""

    def __init__(self, layer: Any):
        self.convolutions = [Convolution(part, activate=True) for part in layer.block if not isinstance(part, nn.ELU)]
        self.shortcut = None if isinstance(layer.shortcut, nn.Identity) else Convolution(layer.shortcut)

    def __call__(self, x: Tensor) -> Tensor:
        """[time, channels] -> the same shape."""
        y = x
        for convolution in self.convolutions:
            y = convolution(y)
        return y.add_(x if self.shortcut is None else self.shortcut(x))


class _Recurrence:
    """The LSTM beside the identity."""

    def __init__(self, layer: Any):
        self.lstm = layer.lstm

    def __call__(self, x: Tensor) -> Tensor:
        return self.lstm(x[:, None])[0][:, 0] + x
