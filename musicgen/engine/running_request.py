"""The state of one request in the engine."""

from concurrent.futures import Future

import numpy as np
from numpy.typing import NDArray

from musicgen.conditioning.conditions import Prepared
from musicgen.engine.sequence import Sequence, Window
from musicgen.request import Request


class RunningRequest:
    """A request from `Engine.add` until its clip is finished."""

    __slots__ = ("codes", "decoded_twice", "engine", "preparing", "request", "sequence", "window")

    def __init__(self, request: Request):
        self.request = request
        self.preparing: Future[list[Prepared | Exception]] | None = None
        self.sequence: Sequence | None = None
        self.window: Window | None = None
        self.codes: NDArray[np.int16] | None = None
        self.decoded_twice = False
        self.engine = ""  # the engine's fingerprint when the codes were finished
