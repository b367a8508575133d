"""Engines over small random checkpoints, on every path: compiled kernels and eager operations, float32 and bfloat16."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from musicgen.clip import Clip, Failed
from musicgen.model import load_model
from musicgen.model.decoder import decoder as decoder_module
from musicgen.model.decoder.cpu_ops import load_library
from musicgen.request import Request

PATHS = ["native-float32", "native-bfloat16", "eager-float32", "eager-bfloat16"]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Small models gain nothing from more threads, and lose on a busy machine.

    What threads change is tested by name.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def load() -> Callable[..., Any]:
    """`load(folder, path)` loads a checkpoint on one of PATHS, once."""
    loaded: dict[tuple[Path, str], Any] = {}

    def get(folder: Path, path: str = "native-float32") -> Any:
        if (folder, path) not in loaded:
            kind, dtype = path.split("-")
            if kind == "native" and isinstance(load_library(), str):
                pytest.skip(f"no compiled kernels: {load_library()}")
            with pytest.MonkeyPatch.context() as patch:
                if kind == "eager":
                    patch.setattr(decoder_module, "load_library", lambda: "a test")
                loaded[folder, path] = load_model(folder, "cpu", dtype)
        return loaded[folder, path]

    return get


def run(engine: Any, requests: Iterable[Request]) -> dict[Request, Clip | Failed]:
    """Everything the requests come to."""
    for request in requests:
        engine.add(request)
    outcomes: dict[Request, Clip | Failed] = {}
    while engine.busy:
        for outcome in engine.step():
            assert outcome.request not in outcomes
            outcomes[outcome.request] = outcome
    return outcomes


def codes(outcome: Clip | Failed) -> NDArray[np.int16]:
    """The codes of what must be a clip."""
    assert isinstance(outcome, Clip), outcome
    return outcome.codes


class SilentCodec:
    """Stands in for EnCodec where only codes matter: sound takes most of the time of a small model."""

    def decode(self, codes: NDArray[Any]) -> NDArray[np.float32]:
        return np.zeros((1, codes.shape[1]), np.float32)

    def decode_all(self, clips: Sequence[NDArray[Any]]) -> list[NDArray[np.float32]]:
        return [self.decode(codes) for codes in clips]
