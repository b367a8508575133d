"""MusicGen in a notebook: load a checkpoint, generate clips, turn sound into codes and back."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from musicgen.clip import Clip
from musicgen.errors import RowError
from musicgen.request import Request

if TYPE_CHECKING:
    from musicgen.engine import Engine
    from musicgen.model import Model, ModelSpec


class MusicGen:
    """A loaded model with its engine. Requests of any mix and length are generated together, each as if it were alone.

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
        """What the checkpoint is."""
        return self.model.spec

    @property
    def sample_rate(self) -> int:
        """Samples per second of everything that is generated and decoded."""
        return self.spec.sample_rate

    def generate(self, requests: Sequence[Request | str], salt: int = 0) -> list[Clip]:
        """One clip per request, in order; a plain string is a prompt with MusicGen's own settings.

        A request without a seed gets one from its content and `salt`, as a job's `generation.seed` gives it: the same
        request always sounds the same, so ask for variations by `sample` or `seed`. The clip's request holds the seed.
        Raises the first `RowError` after the others are done.
        """
        resolved = [
            add_content_hashes(Request(prompt=r) if isinstance(r, str) else r).resolve(salt, self.spec.frame_rate)
            for r in requests
        ]
        try:
            outcomes = self._run(list(dict.fromkeys(resolved)))  # equal requests are one sound
        except BaseException:  # also Ctrl-C: what is half made must not turn up in the next call
            self.close()
            raise
        clips = []
        for request in resolved:
            outcome = outcomes[request]
            if isinstance(outcome, RowError):
                raise outcome
            clips.append(outcome)
        return clips

    def _run(self, requests: list[Request]) -> "dict[Request, Clip | RowError]":
        engine = self._start()
        outcomes: dict[Request, Clip | RowError] = {}
        waiting = iter(requests)
        upcoming = next(waiting, None)
        while upcoming is not None or engine.busy:
            while upcoming is not None and engine.room > 0:
                try:
                    engine.add(upcoming)
                except RowError as error:
                    outcomes[upcoming] = error
                upcoming = next(waiting, None)
            for outcome in engine.step():
                outcomes[outcome.request] = outcome if isinstance(outcome, Clip) else outcome.error
        return outcomes

    def encode(self, audio: NDArray[Any], sample_rate: int | None = None) -> NDArray[np.int16]:
        """The codec's codes of a sound, int16 [codebooks, frames].

        `audio` is float [samples] or [channels, samples] in [-1, 1] at `sample_rate` Hz (None: the model's); it is
        resampled, and mixed to one channel or doubled to two, as the model has them. Raises ValueError.
        """
        wave = np.atleast_2d(np.asarray(audio, dtype=np.float32))
        if wave.ndim != 2 or wave.shape[0] not in (1, 2) or wave.shape[1] == 0:
            raise ValueError(
                f"audio is [samples] or [channels, samples] with one or two channels, not {list(np.shape(audio))}"
            )
        if wave.shape[0] != self.spec.channels:
            wave = wave.mean(axis=0, keepdims=True) if self.spec.channels == 1 else np.repeat(wave, 2, axis=0)
        if sample_rate is not None and sample_rate != self.sample_rate:
            import soxr

            wave = np.ascontiguousarray(soxr.resample(wave.T, sample_rate, self.sample_rate, quality="HQ").T)
        return self.model.codec.encode(wave)

    def decode(self, codes: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """The sound of codes [codebooks, frames]: float32 [channels, samples] at `sample_rate`. Raises ValueError."""
        return self.model.codec.decode(codes)

    def close(self) -> None:
        """Stop the engine's threads; the next `generate` starts them again."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def __enter__(self) -> "MusicGen":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> "Engine":
        if self._engine is None:
            from musicgen.conditioning.conditioner import RequestConditioner
            from musicgen.engine import Engine

            self._engine = Engine(self.model, RequestConditioner(self.model), slots=self._slots)
        return self._engine


def add_content_hashes(request: Request) -> Request:
    """Return the request with the sha256 of its melody and continuation, which identify what is heard.

    A job takes these hashes while planning. Raises `RowError` for a file that cannot be read.
    """
    from musicgen.audio.fetch import hash_audio

    if request.melody and not request.melody_sha256:
        request = replace(request, melody_sha256=hash_audio(request.melody).sha256)
    if request.continuation and not request.continuation_sha256:
        request = replace(request, continuation_sha256=hash_audio(request.continuation, subject="continuation").sha256)
    return request
