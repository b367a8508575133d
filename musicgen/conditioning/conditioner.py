"""Prepares requests for the engine: text, melody, style and continuation become embeddings and forced codes.

`RequestConditioner` is the engine's `Conditioner` (musicgen/conditioning/conditions.py). What is slow about a request (fetching,
decoding, analysing, encoding) can begin when it is queued, on a few threads beside the engine's: `expect`. The result does
not depend on it. What guidance compares with is the null condition, which is not zeros for a melody: silence has the pitch
class 0, so it is one-hot too (transformers' `null_audio_hidden_states`; audiocraft's chroma of a nullified waveform).
"""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from musicgen.audio.fetch import redact_uri
from musicgen.conditioning.clap_sound import ClapSoundEncoder
from musicgen.conditioning.conditions import Branch, Conditions, Prepared
from musicgen.conditioning.continuation import Continuations
from musicgen.conditioning.melody import Melodies
from musicgen.conditioning.stems import Separate
from musicgen.conditioning.style import StyleEncoder
from musicgen.conditioning.windows import window_starts
from musicgen.conditioning.workers import BackgroundWorkers
from musicgen.errors import ErrorClass, RowError
from musicgen.model.load import Model
from musicgen.model.text.encoder import TextStates
from musicgen.request import Request

_THREADS = 2
# Not a row's fault: the engine makes do with fewer slots, an actor whose device is lost is replaced, a closed one asks no more.
_NOT_THE_ROWS = (MemoryError, torch.OutOfMemoryError, torch.AcceleratorError, CancelledError)


class RequestConditioner:
    """The conditioner of a loaded model. Safe to use from several threads.

    `separate` is what takes drums and bass out for requests with `stems`; None: Demucs, when the first such request comes.
    """

    def __init__(self, model: Model, separate: Separate | None = None):
        self.spec = model.spec
        self.device = model.device
        self.text = model.text
        self.continuations = Continuations(model.codec)
        self.melodies: Melodies | None = None
        self.style: StyleEncoder | None = None
        if model.spec.kind == "melody":
            assert model.chroma_projection is not None
            self.melodies = Melodies(model.spec.chroma_length, model.spec.chroma_bins, separate)
            # A linear layer of a one-hot vector is a column of its weight.
            projection = model.chroma_projection
            self.chroma_embeddings = (
                (projection.weight.T + projection.bias).detach().contiguous()
            )  # [chroma_bins, hidden]
        self.joint = ClapSoundEncoder(model) if model.spec.accepts_sound_prompt else None
        if model.spec.kind == "style":
            self.style = StyleEncoder.load(model)
        self._beside = BackgroundWorkers(model.device, _THREADS)
        self._expected: dict[Request, Future[PreparedRequest]] = {}
        self._lock = threading.Lock()

    def expect(self, request: Request) -> None:
        """Begin to prepare a request that will be asked for. Returns at once; requests of text alone are left for later."""
        if request.melody is None and request.continuation is None:
            return
        with self._lock:
            if request not in self._expected:
                self._expected[request] = self._beside.submit(self._prepare, request)

    def prepare(self, requests: list[Request]) -> list[Prepared | Exception]:
        """One result per request, in order. A `RowError` in a place fails that row alone; whatever a request's text or sound
        brings about is one. Out of memory, and a lost device, are everybody's, and in the place as they are.
        """
        results: list[Prepared | Exception] = []
        for request in requests:
            with self._lock:
                expected = self._expected.pop(request, None)
            try:
                results.append(self._prepare(request) if expected is None else expected.result())
            except Exception as error:  # the engine tells one row's failure from everybody's
                results.append(error)
        return results

    def forget(self, request: Request) -> None:
        """Drop what `expect` began: the request will not be asked for."""
        with self._lock:
            expected = self._expected.pop(request, None)
        if expected is not None:
            expected.cancel()

    def close(self) -> None:
        """Stop the threads; what they are at is given up."""
        self._beside.close()

    def width(self, request: Request) -> int:
        """How many branches the request needs: 1 without conditions or guidance, else 2; one more for style and text, where
        a scale of 1 drops the null branch and leaves w + beta (c - w).
        """
        if not (_has_text(request) or request.melody):
            return 1
        style_and_text = self.style is not None and request.melody and _has_text(request)
        return (1 if request.guidance_scale == 1 else 2) + bool(style_and_text)

    @property
    def sound_positions(self) -> int:
        """How many positions of a prefix a melody or a style takes at most, for the engine's plan."""
        return self.spec.chroma_length if self.style is None else self.style.positions

    def prefix_length(self, request: Request) -> int:
        """How many positions the prefix takes."""
        if self.spec.kind == "text":
            return 0
        tokens = self.text.encode(request.prompt).states.shape[0]
        if self.style is not None:
            return tokens + (self.style.positions if request.melody else 1)
        return tokens + self.spec.chroma_length

    def _prepare(self, request: Request) -> "PreparedRequest":
        with _blamed("generation", "the prompt"):
            text = self.text.encode(request.prompt)
        forced: Tensor | None = None
        if request.continuation is not None:
            with _blamed("melody", f"continuation {redact_uri(request.continuation)}"):
                forced = torch.from_numpy(self.continuations.codes(request))
        bins: dict[int, NDArray[np.int8]] = {}
        style: Tensor | None = None
        if request.melody is not None:
            if self.melodies is not None:
                with _blamed("melody", f"melody {redact_uri(request.melody)}"):
                    bins = self._bins(request, window_starts(request, self.spec))
            elif self.style is not None:
                with _blamed("melody", f"style excerpt {redact_uri(request.melody)}"):
                    style = self.style.encode(request)
            elif self.joint is not None:
                with _blamed("melody", f"sound {redact_uri(request.melody)}"):
                    text = self.joint.encode(request)
            else:
                raise RowError("invalid", "this model takes no melody: use a preset that does, as musicgen-melody")
        return PreparedRequest(self, request, text, forced, bins, style)

    def _bins(self, request: Request, starts: Sequence[int]) -> dict[int, NDArray[np.int8]]:
        assert self.melodies is not None
        if len(starts) == 1 and starts[0] == 0:  # a clip of one window
            return {0: self.melodies.bins(request)[0]}
        starts_s = [start / self.spec.frame_rate for start in starts]
        return dict(zip(starts, self.melodies.bins(request, starts_s), strict=True))


@dataclass(frozen=True, slots=True, eq=False)
class PreparedRequest:
    """A request whose slow conditioning is done (the engine's `Prepared`).

    `bins` holds the melody's pitch classes int8 [chroma_length] by window start; `style` the excerpt's embeddings
    [positions, hidden]; `forced` int16 [codebooks, frames].
    """

    owner: RequestConditioner
    request: Request
    text: TextStates
    forced: Tensor | None
    bins: dict[int, NDArray[np.int8]]
    style: Tensor | None

    def window(self, start: int, frames: int) -> Conditions:
        """Conditions for the clip's frames [start, start + frames)."""
        owner, request = self.owner, self.request
        kind = owner.spec.kind
        if kind == "text":
            full, null = Branch(cross=None if self.text.empty else self.text.states), Branch()
        else:
            silent = self._prefix(None, with_text=False)
            full, null = self._prefix(self._sound(start), with_text=True), silent
        width = owner.width(request)
        if width == 1:
            # Without conditions the two branches are equal, and guidance between them is nothing.
            return Conditions((full,))
        if self.style is not None and not self.text.empty:
            assert owner.style is not None
            sound_only = self._prefix(self.style, with_text=False)
            if request.guidance_scale == 1:
                return Conditions((full, sound_only), owner.style.beta)  # what the formula of three is at a scale of 1
            return Conditions((full, sound_only, null), request.guidance_scale, owner.style.beta)
        return Conditions((full, null), request.guidance_scale)

    def _sound(self, start: int) -> Tensor | None:
        """The melody's or the style's embeddings for the window that begins at `start`, [positions, hidden]."""
        if self.style is not None:
            return self.style
        if self.request.melody is None:
            return None
        bins = self.bins.get(start)
        if bins is None:  # an engine that lays its windows otherwise
            bins = self.bins[start] = self.owner._bins(self.request, (start,))[start]
        return self.owner.chroma_embeddings[torch.from_numpy(bins.astype(np.int64)).to(self.owner.device)]

    def _prefix(self, sound: Tensor | None, with_text: bool) -> Branch:
        """Sound, then text: [positions + tokens, hidden]; without, their null conditions of the same length."""
        owner, text = self.owner, self.text.states
        if sound is None:
            if owner.style is not None:
                positions = 1 if self.style is None else self.style.shape[0]
                sound = text.new_zeros(positions, text.shape[1])
            else:
                sound = owner.chroma_embeddings[:1].expand(owner.spec.chroma_length, -1)
        return Branch(prefix=torch.cat([sound, text if with_text else torch.zeros_like(text)]))


@contextmanager
def _blamed(error_class: ErrorClass, what: str) -> Iterator[None]:
    """What goes wrong within is the row's failure."""
    try:
        yield
    except (RowError, *_NOT_THE_ROWS):
        raise
    except Exception as error:
        if "allocate memory" in str(error) or "not enough memory" in str(
            error
        ):  # as torch's allocator for the CPU says it
            raise
        raise RowError(error_class, f"{what} cannot be used: {type(error).__name__}: {error}") from error


def _has_text(request: Request) -> bool:
    return bool(request.prompt.strip())
