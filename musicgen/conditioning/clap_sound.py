"""A sound in the place of a prompt, for checkpoints whose text encoder is CLAP: text and sound share its space."""

from threading import Lock
from typing import IO

import torch

from musicgen.audio.fetch import fetch_audio, redact_uri
from musicgen.audio.read import decode_excerpt
from musicgen.conditioning.chroma import CHUNK_S
from musicgen.errors import RowError
from musicgen.memo import Memo
from musicgen.model.load import Model
from musicgen.model.text.clap import ClapEmbedder
from musicgen.model.text.clap_audio import RATE_HZ, ClapAudioEmbedder
from musicgen.model.text.encoder import TextStates, synchronized
from musicgen.request import Request

_REMEMBERED = 256


class ClapSoundEncoder:
    """The first 30 s of a row's sound as the decoder reads a prompt; each file once. Safe to use from several threads.

    The audio tower, as large as the text tower, is loaded when the first such row comes.
    """

    def __init__(self, model: Model):
        self._model = model
        self._embedder: ClapAudioEmbedder | None = None
        self._loading = Lock()
        self._known: Memo[str, TextStates] = Memo(_REMEMBERED)

    def encode(self, request: Request) -> TextStates:
        """The states [1, hidden] of the file in `request.melody`.

        Raises RowError: "melody" for a file that cannot be used, "invalid" for a row with a prompt too; ModelError: the
        checkpoint has no audio tower.
        """
        if request.prompt.strip():
            raise RowError("invalid", "this model hears a prompt or a sound, not both: leave one of them out")
        uri, sha256 = request.melody or "", request.melody_sha256
        if sha256 is not None:
            return self._known.get(sha256, lambda: self._fetch(uri, sha256))
        with fetch_audio(uri, what="sound") as file:
            return self._known.get(file.sha256, lambda: self._encode(file.file, uri))

    def _fetch(self, uri: str, sha256: str) -> TextStates:
        with fetch_audio(uri, what="sound", sha256=sha256) as file:
            return self._encode(file.file, uri)

    @torch.inference_mode()
    def _encode(self, file: IO[bytes], uri: str) -> TextStates:
        audio = decode_excerpt(file, rate=RATE_HZ, seconds=CHUNK_S, what="sound", name=redact_uri(uri))[0]
        states = self._tower()(audio)
        projection = self._model.text.projection
        return TextStates(synchronized(states if projection is None else projection(states)))

    def _tower(self) -> ClapAudioEmbedder:
        with self._loading:
            if self._embedder is None:
                model, text = self._model, self._model.text.embedder
                assert isinstance(text, ClapEmbedder)
                self._embedder = ClapAudioEmbedder.load(
                    model.checkpoint.folder, model.tensors, text.codebooks, model.device
                )
            return self._embedder
