"""EnCodec's decoder as matrix products.

The network is SEANet (Tagliasacchi et al. 2020; Défossez et al. 2022, section 3.1) with transformers' weights. States
are laid out [time, channels], so that a convolution is one product of overlapping rows. So is a transposed convolution
whose kernel is twice its stride: a product of each frame and the one before it.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from musicgen.model.codec.convolution import Recurrence, build_convolution

Stage = Callable[[Tensor], Tensor]  # [time, channels] -> [time', channels']


def build_stages(layers: Iterable[Any]) -> tuple[list[Stage], Recurrence, list[Stage]] | None:
    """Build the stages before, at and behind the LSTM from the layers of transformers' `EncodecDecoder`, weight norm
    folded.

    None for a network with a kind of layer that is not known here; it must run as transformers' modules.
    """
    before: list[Stage] = []
    behind: list[Stage] = []
    recurrence = None
    for layer in layers:
        built = before if recurrence is None else behind
        kind = type(layer).__name__
        if kind == "EncodecLSTM" and recurrence is None and not layer.lstm.bidirectional:
            recurrence = Recurrence(layer.lstm)
        elif kind == "ELU":
            built.append(nn.functional.elu)
        elif kind == "EncodecConv1d" and _is_plain(layer):
            built.append(Convolution(layer))
        elif (
            kind == "EncodecConvTranspose1d"
            and _is_plain(layer)
            and layer.conv.kernel_size[0] == 2 * layer.conv.stride[0]
        ):
            built.append(Upsampling(layer))
        elif kind == "EncodecResnetBlock" and all(
            _is_plain(part) for part in layer.block if not isinstance(part, nn.ELU)
        ):
            built.append(Residual(layer))
        else:
            return None
    return None if recurrence is None else (before, recurrence, behind)


def _is_plain(layer: Any) -> bool:
    reflects = getattr(layer, "pad_mode", "reflect") == "reflect"
    return not layer.causal and layer.norm_type == "weight_norm" and reflects and layer.conv.dilation[0] == 1


class Convolution:
    """A convolution of stride 1 with reflection at the ends, after an ELU if `activate`."""

    def __init__(self, layer: Any, activate: bool = False):
        weight: Tensor = layer.conv.weight  # [out, in, taps]
        self.out, _, self.taps = weight.shape
        self.bias: Tensor = layer.conv.bias
        self.has_few_outputs = self.out <= 2  # the last layer: all taps at once, then shifted sums of narrow columns
        if self.has_few_outputs:
            flat = weight.permute(2, 0, 1).reshape(-1, weight.shape[1], 1)  # [taps * out, in, 1]
            self.product = build_convolution(flat, flat.new_zeros(len(flat)))
        else:
            self.product = build_convolution(weight, self.bias)
        self.activate = activate
        self.right = (self.taps - 1) // 2
        self.left = self.taps - 1 - self.right

    def __call__(self, x: Tensor) -> Tensor:
        """Convolve [time, in] -> [time, out]."""
        padded = self._pad(x)
        if not self.has_few_outputs:
            return self.product(padded)
        time, products = x.shape[0], self.product(padded)  # [time + taps - 1, taps * out]
        y = self.bias + products[:time, : self.out]
        for k in range(1, self.taps):
            y += products[k : k + time, k * self.out : (k + 1) * self.out]
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
    """A transposed convolution with kernel 2r and stride r, trimmed at both ends: r samples for each input sample."""

    def __init__(self, layer: Any):
        weight: Tensor = layer.conv.weight  # [in, out, 2r]
        self.stride: int = layer.conv.stride[0]
        self.out: int = weight.shape[1]
        flat = weight.permute(2, 1, 0)  # [2r, out, in]
        current, before = (
            half.reshape(-1, weight.shape[0]) for half in (flat[: self.stride], flat[self.stride :])
        )  # [r * out, in]
        self.product = build_convolution(torch.stack([before, current], dim=-1), layer.conv.bias.repeat(self.stride))

    def __call__(self, x: Tensor) -> Tensor:
        """Upsample [time, in] -> [time * r, out]."""
        y = self.product(nn.functional.pad(x, (0, 0, 1, 1)))  # [time + 1, r * out]
        first = self.stride - self.stride // 2
        return y.view(-1, self.out)[first : first + x.shape[0] * self.stride]


class Residual:
    """A residual block: ELU and convolution, twice, added to the input or to a convolution of it with one tap."""

    def __init__(self, layer: Any):
        self.convolutions = [Convolution(part, activate=True) for part in layer.block if not isinstance(part, nn.ELU)]
        self.shortcut = None if isinstance(layer.shortcut, nn.Identity) else Convolution(layer.shortcut)

    def __call__(self, x: Tensor) -> Tensor:
        """Run the block on [time, channels] -> the same shape."""
        y = x
        for convolution in self.convolutions:
            y = convolution(y)
        return y.add_(x if self.shortcut is None else self.shortcut(x))
