"""The Python API: load a checkpoint, generate clips, turn audio into codes and back."""

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from musicgen.audio.fetch import hash_audio
from musicgen.clip import Clip
from musicgen.errors import RowError
from musicgen.patterns import Codes
from musicgen.request import Request

if TYPE_CHECKING:
    from musicgen.engine import Engine
    from musicgen.model import Model, ModelSpec


class MusicGen:
    """A loaded model with its engine, which generates requests of any mix and length together.

    Each clip is the same as if it were generated alone.

    model = MusicGen.from_pretrained("facebook/musicgen-small")
    clip, = model.generate([Request(prompt="warm lo-fi piano, 80 bpm", duration_s=8)])
    """

    def __init__(self, model: "Model", slots: "int | str" = "auto"):
        self.model = model
        self._slots = slots
        self._engine: Engine | None = None

    @classmethod
    def from_pretrained(
        cls,
        name: str = "embedded",
        device: str = "auto",
        dtype: str = "auto",
        revision: str | None = None,
        slots: "int | str" = "auto",
    ) -> "MusicGen":
        """Load a checkpoint: a preset, a hub name (at `revision`), a folder, an object-store folder, or "embedded".

        `device` and `dtype` as in `musicgen.model.load_model`; `slots` is how many clips are generated at once. Raises
        `ModelError`.
        """
        from musicgen.model import load_model, resolve_checkpoint

        return cls(load_model(resolve_checkpoint(name, revision), device, dtype), slots)

    @property
    def spec(self) -> "ModelSpec":
        """The sizes, rates and abilities of the checkpoint."""
        return self.model.spec

    @property
    def sample_rate(self) -> int:
        """Samples per second of the audio that is generated and decoded."""
        return self.spec.sample_rate

    def generate(self, requests: Sequence[Request | str], salt: int = 0) -> list[Clip]:
        """Return one clip per request, in order; a string is a prompt with MusicGen's own settings.

        A request without a seed gets one from its content and `salt`, as in a job with this `generation.seed`. The same
        request always gives the same clip; variations have another `sample` or `seed`. The clip's request has the seed.
        Raises the first `RowError` after the others are done.
        """
        resolved = [
            add_content_hashes(Request(prompt=request) if isinstance(request, str) else request).resolve(
                salt, self.spec.frame_rate
            )
            for request in requests
        ]
        try:
            outcomes = self._generate_distinct(list(dict.fromkeys(resolved)))
        except BaseException:  # also Ctrl-C: the next call must not get clips of this one
            self.close()
            raise
        clips = []
        for request in resolved:
            outcome = outcomes[request]
            if isinstance(outcome, RowError):
                raise outcome
            clips.append(outcome)
        return clips

    def _generate_distinct(self, requests: list[Request]) -> "dict[Request, Clip | RowError]":
        engine = self._open_engine()
        outcomes: dict[Request, Clip | RowError] = {}
        waiting = deque(requests)
        while waiting or engine.busy:
            while waiting and engine.room > 0:
                request = waiting.popleft()
                try:
                    engine.add(request)
                except RowError as error:
                    outcomes[request] = error
            for outcome in engine.step():
                outcomes[outcome.request] = outcome if isinstance(outcome, Clip) else outcome.error
        return outcomes

    def encode(self, audio: ArrayLike, sample_rate: int | None = None) -> NDArray[np.int16]:
        """Encode audio to the codec's codes, int16 [codebooks, frames].

        `audio` is float [samples] or [channels, samples] in [-1, 1] at `sample_rate` Hz (None: the model's); it is
        resampled, and mixed to one channel or doubled to two, as the model needs. Raises ValueError.
        """
        waveform = np.atleast_2d(np.asarray(audio, dtype=np.float32))
        if waveform.ndim != 2 or waveform.shape[0] not in (1, 2) or waveform.shape[1] == 0:
            raise ValueError(
                f"audio is [samples] or [channels, samples] with one or two channels, not {list(np.shape(audio))}"
            )
        if waveform.shape[0] != self.spec.channels:
            waveform = (
                waveform.mean(axis=0, keepdims=True) if self.spec.channels == 1 else np.repeat(waveform, 2, axis=0)
            )
        if sample_rate is not None and sample_rate != self.sample_rate:
            import soxr

            waveform = np.ascontiguousarray(soxr.resample(waveform.T, sample_rate, self.sample_rate, quality="HQ").T)
        return self.model.codec.encode(waveform)

    def decode(self, codes: Codes) -> NDArray[np.float32]:
        """Decode codes [codebooks, frames] to audio, float32 [channels, samples]. Raises ValueError."""
        return self.model.codec.decode(codes)

    def close(self) -> None:
        """Stop the engine's threads; the next `generate` starts new ones."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def __enter__(self) -> "MusicGen":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open_engine(self) -> "Engine":
        if self._engine is None:
            from musicgen.conditioning.conditioner import RequestConditioner
            from musicgen.engine import Engine

            self._engine = Engine(self.model, RequestConditioner(self.model), slots=self._slots)
        return self._engine


def add_content_hashes(request: Request) -> Request:
    """Return the request with the sha256 of its melody and continuation, which are part of its identity.

    A job takes these hashes while planning. Raises `RowError` for a file that cannot be read.
    """
    if request.melody and not request.melody_sha256:
        request = replace(request, melody_sha256=hash_audio(request.melody).sha256)
    if request.continuation and not request.continuation_sha256:
        request = replace(request, continuation_sha256=hash_audio(request.continuation, subject="continuation").sha256)
    return request
