"""Makes an operation of torch of a function that launches one kernel, so that it can be traced on fake tensors."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import ParamSpec, TypeVar, cast

import torch
from torch import Tensor

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

_LIBRARY = torch.library.Library("musicgen", "FRAGMENT")


def launch_operation(
    fake: Callable[Parameters, Result], mutates_args: Iterable[str] = ()
) -> Callable[[Callable[Parameters, Result]], Callable[Parameters, Result]]:
    """Decorate a function of tensors and numbers: `torch.ops.musicgen.<its name>`, which it is then called through.

    `fake` makes the results without computing them. (`torch.library.custom_op` does the same, but imports
    `torch._dynamo`, which takes seconds.)
    """

    def define(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
        operation = _define(function, mutates_args)
        torch.library.register_fake(f"musicgen::{function.__name__}", fake, lib=_LIBRARY)
        return operation

    return define


def launch_in_place(
    mutates_args: Iterable[str],
) -> Callable[[Callable[Parameters, None]], Callable[Parameters, None]]:
    """Decorate a function like `launch_operation` where it returns nothing, so that there is nothing to fake."""

    def define(function: Callable[Parameters, None]) -> Callable[Parameters, None]:
        operation = _define(function, mutates_args)
        torch.library.register_fake(f"musicgen::{function.__name__}", lambda *_: None, lib=_LIBRARY)
        return operation

    return define


def _define(function: Callable[Parameters, Result], mutates_args: Iterable[str]) -> Callable[Parameters, Result]:
    name = function.__name__
    _LIBRARY.define(name + torch.library.infer_schema(function, mutates_args=tuple(mutates_args)))
    for key in ("CPU", "CUDA"):
        _LIBRARY.impl(name, function, key)
    return cast(Callable[Parameters, Result], getattr(torch.ops.musicgen, name).default)


def device_of(tensor: Tensor) -> AbstractContextManager[object]:
    """Make the tensor's device the current one: Triton launches there, whatever its arguments say."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


@cache
def load_kernels(name: str) -> ModuleType:
    """Import a module of `triton_kernels`, and with it Triton."""
    return import_module(f"musicgen.model.decoder.triton_kernels.{name}")


def next_power_of_2(number: int) -> int:
    """The width of a block of at least `number` elements."""
    return 1 << max(0, number - 1).bit_length()
