"""Prepares requests for the engine: text, melody, style and continuation become embeddings and forced codes.

`RequestConditioner` is the engine's `Conditioner` (musicgen/conditioning/conditions.py). With `expect` the slow part of
a request (fetching, decoding, analyzing, encoding) begins on background threads while the request is queued; the result
does not depend on that. The null condition of guidance is not zeros for a melody: silence has the pitch class 0, so it
is one-hot too (transformers' `null_audio_hidden_states`; audiocraft's chroma of a nullified waveform).
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

from musicgen.audio.sound_places import redact_uri
from musicgen.conditioning.clap_sound import ClapSoundEncoder
from musicgen.conditioning.conditions import Branch, Conditions, Prepared
from musicgen.conditioning.continuation import ContinuationEncoder
from musicgen.conditioning.melody import MelodyAnalyzer
from musicgen.conditioning.stems import Separate
from musicgen.conditioning.style import StyleEncoder
from musicgen.conditioning.windows import window_starts
from musicgen.conditioning.workers import BackgroundWorkers
from musicgen.errors import ErrorClass, RowError, StoreError
from musicgen.model.load import Model
from musicgen.model.text.encoder import TextStates
from musicgen.model.text.t5_embedder import MAX_TOKENS
from musicgen.model.text.tokenizer import TokenCount
from musicgen.request import Request
from musicgen.storage.patience import SHORT_PATIENCE_S, wait_for_store

_THREADS = 2
# Errors that concern all rows: out of memory (the engine continues with fewer slots), a lost device (the actor is
# replaced), a store that cannot be used, a closed conditioner (the engine is closing too).
_SHARED_ERRORS = (MemoryError, torch.OutOfMemoryError, torch.AcceleratorError, StoreError, CancelledError)


class RequestConditioner:
    """Prepares requests for a loaded model. Thread-safe.

    `separate` removes drums and bass from the melodies of requests with `stems`; None loads Demucs when the first such
    request is prepared. A store that cannot be used when a melody or continuation is fetched is waited for, for at most
    `store_patience_s` seconds.
    """

    def __init__(self, model: Model, separate: Separate | None = None, *, store_patience_s: float = SHORT_PATIENCE_S):
        self.spec = model.spec
        self.device = model.device
        self.text = model.text
        self.continuations = ContinuationEncoder(model.codec)
        self.melodies: MelodyAnalyzer | None = None
        self.style: StyleEncoder | None = None
        self.clap_sound: ClapSoundEncoder | None = None
        if model.spec.kind == "melody":
            assert model.chroma_table is not None
            self.melodies = MelodyAnalyzer(model.spec.chroma_length, model.spec.chroma_bins, separate)
            self.chroma_embeddings = model.chroma_table  # [chroma_bins, hidden]
        elif model.spec.kind == "style":
            self.style = StyleEncoder.load(model)
        if model.spec.accepts_sound_prompt:
            self.clap_sound = ClapSoundEncoder(model)
        self.null_prefix = self._build_null_prefix() if self.has_prefix else None
        self._store_patience_s = store_patience_s
        self._closed = threading.Event()
        self._workers = BackgroundWorkers(model.device, _THREADS)
        self._expected: dict[Request, Future[PreparedRequest]] = {}
        self._lock = threading.Lock()

    def expect(self, request: Request) -> None:
        """Begin to prepare a request in the background, and return at once; of text alone only the prompt is noted."""
        self.text.expect(request.prompt)
        if request.melody is None and request.continuation is None:
            return
        with self._lock:
            if request not in self._expected:
                self._expected[request] = self._workers.submit(self._prepare_one, request)

    def prepare(self, requests: list[Request]) -> list[Prepared | Exception]:
        """Prepare requests and return one result per request, in order. A `RowError` concerns its own row alone.

        Every error that a request's text or audio causes is a `RowError`; out of memory, a lost device and a store that
        cannot be used concern all rows and are returned as they are.
        """
        results: list[Prepared | Exception] = []
        for request in requests:
            with self._lock:
                expected = self._expected.pop(request, None)
            try:
                results.append(self._prepare_one(request) if expected is None else expected.result())
            except Exception as error:  # the engine distinguishes a row's error from one that concerns all rows
                results.append(error)
        return results

    def close(self) -> None:
        """Stop the threads and drop unfinished work."""
        self._closed.set()
        self._workers.close()

    def width(self, request: Request) -> int:
        """Return how many branches the request needs: 1 without conditions or without guidance, else 2.

        Style with text needs one more; there a scale of 1 drops the null branch and leaves w + beta (c - w).
        """
        if not (_has_text(request) or request.melody):
            return 1
        style_and_text = self.style is not None and request.melody and _has_text(request)
        return (1 if request.guidance_scale == 1 else 2) + bool(style_and_text)

    @property
    def sound_positions(self) -> int:
        """Return the largest number of prefix positions of a melody or a style, for the engine's cache plan."""
        return self.spec.chroma_length if self.style is None else self.style.positions

    @property
    def has_prefix(self) -> bool:
        """Return whether conditions are a prefix of embeddings (melody, style) instead of cross-attention (text)."""
        return self.melodies is not None or self.style is not None

    def _build_null_prefix(self) -> Tensor:
        """The null condition of the longest sound and text, of which each request's is the beginning: pitch class 0 for
        a melody, zeros for a style and for text.
        """
        positions = self.sound_positions + max(MAX_TOKENS, self.spec.text_length)
        prefix = torch.zeros(positions, self.spec.hidden, device=self.device)
        if self.melodies is not None:
            prefix[: self.sound_positions] = self.chroma_embeddings[0]
        return prefix

    def melody_windows(self, request: Request, starts: Sequence[int]) -> dict[int, NDArray[np.int8]]:
        """Analyze a melody: pitch classes, int8 [chroma_length], of each window, by the window's first frame."""
        assert self.melodies is not None
        if len(starts) == 1 and starts[0] == 0:  # a clip of one window
            return {0: self.melodies.pitch_classes(request)[0]}
        starts_s = [start / self.spec.frame_rate for start in starts]
        return dict(zip(starts, self.melodies.pitch_classes(request, starts_s), strict=True))

    def _prepare_one(self, request: Request) -> "PreparedRequest":
        return wait_for_store(lambda: self._prepare_now(request), self._store_patience_s, stop=self._closed)

    def _prepare_now(self, request: Request) -> "PreparedRequest":
        with _as_row_error("generation", "the prompt"):
            text = self.text.encode(request.prompt)
        forced: Tensor | None = None
        if (continuation := request.continuation_uri) is not None:
            with _as_row_error("melody", f"continuation {redact_uri(continuation)}"):
                forced = torch.from_numpy(self.continuations.encode(request))
        pitch_classes: dict[int, NDArray[np.int8]] = {}
        style: Tensor | None = None
        if (melody := request.melody_uri) is not None:
            name = redact_uri(melody)
            if self.melodies is not None:
                with _as_row_error("melody", f"melody {name}"):
                    pitch_classes = self.melody_windows(request, window_starts(request, self.spec))
            elif self.style is not None:
                with _as_row_error("melody", f"style excerpt {name}"):
                    style = self.style.encode(request)
            elif self.clap_sound is not None:
                with _as_row_error("melody", f"sound {name}"):
                    text = self.clap_sound.encode(request)
            else:
                raise RowError("invalid", "this model takes no melody: use a preset that does, as musicgen-melody")
        return PreparedRequest(self, request, text, forced, pitch_classes, style)


@dataclass(frozen=True, slots=True, eq=False)
class PreparedRequest:
    """A request whose slow conditioning is finished (the engine's `Prepared`).

    `pitch_classes` maps window starts to the melody's int8 [chroma_length]; `style` are the excerpt's embeddings
    [positions, hidden]; `forced` are a continuation's codes, int16 [codebooks, frames].
    """

    owner: RequestConditioner
    request: Request
    text: TextStates
    forced: Tensor | None
    pitch_classes: dict[int, NDArray[np.int8]]
    style: Tensor | None

    @property
    def prompt_tokens(self) -> TokenCount:
        """Return how many tokens the text encoder makes of the prompt, before it cuts it."""
        return self.text.tokens

    def window(self, start: int, frames: int) -> Conditions:
        """Return the conditions for the clip's frames [start, start + frames)."""
        owner, scale = self.owner, self.request.guidance_scale
        if not owner.has_prefix:
            full, null = Branch(cross=None if self.text.empty else self.text.states), Branch()
        else:
            full = self._build_prefix(self._embed_sound(start), with_text=True)
            null = self._build_prefix(None, with_text=False)
        if owner.width(self.request) == 1:
            # Without conditions the two branches are equal, so guidance between them has no effect.
            return Conditions((full,))
        if owner.style is not None and self.style is not None and not self.text.empty:
            sound_only = self._build_prefix(self.style, with_text=False)
            if scale == 1:  # in the formula of three branches the null branch cancels out
                return Conditions((full, sound_only), owner.style.beta)
            return Conditions((full, sound_only, null), scale, owner.style.beta)
        return Conditions((full, null), scale)

    def _embed_sound(self, start: int) -> Tensor | None:
        """Return the melody's or style's embeddings, [positions, hidden], for the window that begins at `start`."""
        if self.style is not None:
            return self.style
        if self.request.melody is None:
            return None
        classes = self.pitch_classes.get(start)
        if classes is None:  # an engine whose windows begin at other frames
            classes = self.pitch_classes[start] = self.owner.melody_windows(self.request, (start,))[start]
        return self.owner.chroma_embeddings[torch.from_numpy(classes.astype(np.int64)).to(self.owner.device)]

    def _build_prefix(self, sound: Tensor | None, with_text: bool) -> Branch:
        """Join sound and text, [positions + tokens, hidden]; a missing one becomes a null condition of equal length."""
        text, null = self.text.states, self.owner.null_prefix
        assert null is not None
        if sound is None and not with_text:
            return Branch(prefix=null[: self._sound_positions + text.shape[0]], shared=null)
        sound = null[: self._sound_positions] if sound is None else sound
        return Branch(prefix=torch.cat([sound, text if with_text else torch.zeros_like(text)]))

    @property
    def _sound_positions(self) -> int:
        if self.owner.melodies is not None:
            return self.owner.spec.chroma_length
        return 1 if self.style is None else self.style.shape[0]


@contextmanager
def _as_row_error(error_class: ErrorClass, subject: str) -> Iterator[None]:
    """Turn an error of the block into a `RowError`, except one that concerns all rows."""
    try:
        yield
    except (RowError, *_SHARED_ERRORS):
        raise
    except Exception as error:
        # torch's allocator for the CPU raises a RuntimeError with one of these texts.
        if "allocate memory" in str(error) or "not enough memory" in str(error):
            raise
        raise RowError(error_class, f"{subject} cannot be used: {type(error).__name__}: {error}") from error


def _has_text(request: Request) -> bool:
    return bool(request.prompt.strip())
