"""The state of one request in the engine."""

from concurrent.futures import Future

import numpy as np
from numpy.typing import NDArray

from musicgen.clip import Clip
from musicgen.conditioning.conditions import Prepared
from musicgen.engine.sequence import Sequence, Window
from musicgen.request import Request


class RunningRequest:
    """A request from `Engine.add` until its clip is finished."""

    __slots__ = ("codes", "decoded_twice", "engine", "placing", "preparing", "request", "sequence", "window")

    def __init__(self, request: Request):
        self.request = request
        self.preparing: Future[list[Prepared | Exception]] | None = None
        self.sequence: Sequence | None = None
        self.placing: Window | None = None  # into its slot, which has no steps to run yet
        self.window: Window | None = None
        self.codes: NDArray[np.int16] | None = None
        self.decoded_twice = False
        self.engine = ""  # the engine's fingerprint when the codes were finished

    def begin_again(self) -> None:
        """Forget what has been generated, and conditions that could not be prepared: memory has run out."""
        self.sequence = self.window = self.placing = None
        if self.preparing is not None and self.preparing.done() and self.preparing.exception() is not None:
            self.preparing = None

    def make_clip(self, audio: NDArray[np.float32], sample_rate: int) -> Clip:
        """Join the finished codes and their sound."""
        assert self.codes is not None
        assert self.sequence is not None
        tokens = self.sequence.prepared.prompt_tokens
        return Clip(
            self.request,
            self.codes,
            audio,
            sample_rate,
            self.engine,
            prompt_tokens=tokens.total,
            prompt_unknown=tokens.unknown,
        )
