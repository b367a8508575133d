"""The Python API: load a checkpoint, generate clips, turn audio into codes and back."""

import os
import tempfile
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from musicgen.audio.fetch import hash_audio
from musicgen.audio.sound_files import write_sound
from musicgen.clip import Clip, Failed
from musicgen.errors import RowError
from musicgen.manifest.request_check import check_request
from musicgen.patterns import Codes
from musicgen.request import AudioSource, Request

if TYPE_CHECKING:
    from musicgen.engine import Engine
    from musicgen.model import Model, ModelSpec

_COLUMNS = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())

Requests: TypeAlias = Sequence[Request | str] | Request | str


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
        self._sounds: tempfile.TemporaryDirectory[str] | None = None  # samples of requests, as files

    @classmethod
    def from_pretrained(
        cls,
        name: str = "embedded",
        device: str = "auto",
        dtype: str = "auto",
        revision: str | None = None,
        slots: "int | str" = "auto",
        allow_pr: bool = False,
    ) -> "MusicGen":
        """Load a checkpoint: a preset, a hub name (at `revision`), a folder, an object-store folder, or "embedded".

        `device` and `dtype` as in `musicgen.model.load_model`; `slots` is how many clips are generated at once.
        `allow_pr` as in `resolve_checkpoint`. Raises `ModelError`.
        """
        from musicgen.model import load_model, resolve_checkpoint

        return cls(load_model(resolve_checkpoint(name, revision, allow_pr), device, dtype), slots)

    @property
    def spec(self) -> "ModelSpec":
        """The sizes, rates and abilities of the checkpoint."""
        return self.model.spec

    @property
    def sample_rate(self) -> int:
        """Samples per second of the audio that is generated and decoded."""
        return self.spec.sample_rate

    @overload
    def generate(
        self, requests: Requests, salt: int = 0, *, errors: Literal["raise"] = "raise", progress: bool = False
    ) -> list[Clip]:
        """Raise the first error."""

    @overload
    def generate(
        self, requests: Requests, salt: int = 0, *, errors: Literal["return"], progress: bool = False
    ) -> list[Clip | Failed]:
        """Return the errors among the clips."""

    def generate(
        self,
        requests: Requests,
        salt: int = 0,
        *,
        errors: Literal["raise", "return"] = "raise",
        progress: bool = False,
    ) -> list[Clip] | list[Clip | Failed]:
        """Return one clip per request, in order; a string is a prompt with MusicGen's own settings.

        One string or `Request` alone is taken as a list of one. A melody or continuation may be `(samples, rate)`:
        float in [-1, 1] or integers, [samples], [channels, samples] or [samples, channels], at `rate` Hz. A request
        without a seed gets one from its content and `salt`, as in a job with this `generation.seed`. The same request
        always gives the same clip; variations have another `sample` or `seed`. The clip's request has the seed.

        Numbers are checked as in a manifest. A request that cannot be made costs no other its clip: with
        `errors="return"` its place in the list has a `Failed` with the reason, else its `RowError` (the first one) is
        raised once the others are done. `progress` shows a bar on stderr. Raises ValueError for another `errors`.
        """
        if errors not in ("raise", "return"):
            raise ValueError(f"errors is {errors!r}; write 'raise' or 'return'")
        outcomes = self._generate_all(
            [requests] if isinstance(requests, str | Request) else list(requests), salt, progress
        )
        if errors == "return":
            return outcomes
        clips = []
        for number, outcome in enumerate(outcomes, 1):
            if isinstance(outcome, Failed):
                error = outcome.error
                place = f"request {number} of {len(outcomes)}: " if len(outcomes) > 1 else ""
                raise RowError(error.error_class, f"{place}{error}") from None
            clips.append(outcome)
        return clips

    def _generate_all(self, requests: list[Request | str], salt: int, progress: bool) -> list[Clip | Failed]:
        """Return what becomes of each request, in order; equal requests are generated once."""
        resolved: list[Request | Failed] = []
        for request in requests:
            given = Request(prompt=request) if isinstance(request, str) else request
            try:
                checked = self._write_sounds(check_request(given))
                resolved.append(add_content_hashes(checked).resolve(salt, self.spec.frame_rate))
            except RowError as error:
                resolved.append(Failed(given, error))
        distinct = list(dict.fromkeys(request for request in resolved if isinstance(request, Request)))
        try:
            outcomes = self._generate_distinct(distinct, progress)
        except BaseException:  # also Ctrl-C: the next call must not get clips of this one
            self.close()
            raise
        return [outcomes[request] if isinstance(request, Request) else request for request in resolved]

    def _write_sounds(self, request: Request) -> Request:
        """Return the request with files in the place of samples; they are deleted with this object."""
        return replace(
            request,
            melody=self._write_sound(request.melody, "melody"),
            continuation=self._write_sound(request.continuation, "continuation"),
        )

    def _write_sound(self, source: "AudioSource | None", subject: str) -> str | None:
        if source is None:
            return None
        if isinstance(source, str | os.PathLike):
            return os.fspath(source)
        self._sounds = self._sounds or tempfile.TemporaryDirectory(prefix="musicgen-sounds-")
        return write_sound(source, Path(self._sounds.name), subject)

    def _generate_distinct(self, requests: list[Request], progress: bool) -> dict[Request, Clip | Failed]:
        engine = self._open_engine()
        outcomes: dict[Request, Clip | Failed] = {}
        waiting = deque(requests)
        with Progress(*_COLUMNS, console=Console(stderr=True), disable=not progress) as bar:
            task = bar.add_task("clips", total=len(requests))
            while waiting or engine.busy:
                while waiting and engine.room > 0:
                    request = waiting.popleft()
                    try:
                        engine.add(request)
                    except RowError as error:
                        outcomes[request] = Failed(request, error)
                for outcome in engine.step():
                    outcomes[outcome.request] = outcome
                bar.update(task, completed=len(outcomes))
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

    def __repr__(self) -> str:
        return f"<MusicGen {self.spec.kind}, {self.sample_rate} Hz, on {self.model.device}>"

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
    if (melody := request.melody_uri) and not request.melody_sha256:
        request = replace(request, melody_sha256=hash_audio(melody).sha256)
    if (continuation := request.continuation_uri) and not request.continuation_sha256:
        request = replace(request, continuation_sha256=hash_audio(continuation, subject="continuation").sha256)
    return request
