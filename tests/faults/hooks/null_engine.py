"""An engine without a model: a clip is a tone whose pitch is its request's seed, with its melody's beginning on top.

It starts within a second and needs no torch, so that a fault test can afford many actors. A clip takes CHAOS_CLIP_S,
and a row whose prompt begins with "poison" ends the process.
"""

import os
import signal
import time
from collections import deque
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from musicgen.audio.fetch import fetch_audio
from musicgen.audio.read import decode_excerpt
from musicgen.clip import Clip, Failed
from musicgen.errors import RowError
from musicgen.request import Request
from musicgen.storage.patience import wait_for_store
from musicgen.unfinished_clips import UnfinishedClips

if TYPE_CHECKING:
    from actors.actor_config import ActorConfig

_RATE_HZ = 32_000


class NullEngine:
    """One request a step, in the order of their arrival. See `actors.generation_loop.GenerationEngine`."""

    fingerprint = '{"device":"cpu","path":"null"}'

    def __init__(self, slots: int, clip_s: float, store_patience_s: float):
        self.slots, self.steps = slots, 0
        self._clip_s, self._store_patience_s = clip_s, store_patience_s
        self._queue: deque[Request] = deque()

    @property
    def room(self) -> int:
        """How many more requests it takes now."""
        return self.slots - len(self._queue)

    @property
    def busy(self) -> bool:
        """Whether it holds a request."""
        return bool(self._queue)

    def add(self, request: Request) -> None:
        """Queue a request."""
        if request.prompt.startswith("poison"):
            os.kill(os.getpid(), signal.SIGKILL)
        self._queue.append(request)

    def step(self) -> list[Clip | Failed]:
        """Make one clip. A melody's store that cannot be used is waited for, as the real engine does."""
        time.sleep(self._clip_s)
        self.steps += 1
        request = self._queue[0]
        try:
            audio = wait_for_store(lambda: _make_sound(request), self._store_patience_s)
        except RowError as error:
            self._queue.popleft()
            return [Failed(request, error)]
        self._queue.popleft()
        codes = np.zeros((4, request.frames(50.0)), np.int16)
        return [Clip(request, codes, audio, _RATE_HZ, self.fingerprint)]

    def measure_unfinished(self) -> UnfinishedClips:
        """Each step makes a whole clip."""
        return UnfinishedClips()

    def close(self) -> None:
        """Nothing to stop."""


def load_null_engine(config: "ActorConfig") -> NullEngine:
    """Return one with the job's slots."""
    slots = config.slots if isinstance(config.slots, int) else 4
    return NullEngine(slots, float(os.environ.get("CHAOS_CLIP_S", "0")), config.store_patience_s)


def _make_sound(request: Request) -> NDArray[np.float32]:
    count = round(request.duration_s * _RATE_HZ)
    hz = 110.0 + (request.seed or 0) % 9973 / 10
    sound = (0.4 * np.sin(2 * np.pi * hz / _RATE_HZ * np.arange(count))).astype(np.float32)[None]
    if request.melody is None:
        return sound
    with fetch_audio(request.melody, sha256=request.melody_sha256) as fetched:
        melody = decode_excerpt(fetched.file, sample_rate=_RATE_HZ, seconds=request.duration_s)
    sound[:, : melody.shape[1]] += 0.5 * melody[:, :count]
    return sound
