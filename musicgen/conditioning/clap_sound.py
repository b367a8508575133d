"""Encodes a sound in place of a prompt, for checkpoints with the text encoder CLAP.

CLAP embeds text and sound in the same space.
"""

from threading import Lock
from typing import IO

import torch

from musicgen.audio.read import decode_excerpt
from musicgen.audio.sound_places import redact_uri
from musicgen.conditioning.audio_memo import AudioMemo
from musicgen.conditioning.chroma import CHUNK_S
from musicgen.errors import RowError
from musicgen.model.load import Model
from musicgen.model.text.clap import ClapEmbedder
from musicgen.model.text.clap_audio import RATE_HZ, ClapAudioEmbedder
from musicgen.model.text.encoder import TextStates, synchronized
from musicgen.request import Request

_REMEMBERED = 256


class ClapSoundEncoder:
    """Encodes the first 30 s of a row's sound as text states. Thread-safe; each file is encoded once.

    The audio tower is as large as the text tower, so it is loaded only when the first such row is prepared.
    """

    def __init__(self, model: Model):
        self._model = model
        self._embedder: ClapAudioEmbedder | None = None
        self._loading = Lock()
        self._memo: AudioMemo[TextStates] = AudioMemo(_REMEMBERED, "sound")

    def encode(self, request: Request) -> TextStates:
        """Encode the file in `request.melody` as text states [1, hidden].

        Raises RowError "melody" for a file that cannot be used and "invalid" for a row that also has a prompt, and
        ModelError if the checkpoint has no audio tower.
        """
        if request.prompt.strip():
            raise RowError("invalid", "this model takes a prompt or a sound, not both: leave one of them out")
        uri = request.melody_uri or ""
        return self._memo.get(uri, request.melody_sha256, lambda file: self._encode_file(file, uri))

    @torch.inference_mode()
    def _encode_file(self, file: IO[bytes], uri: str) -> TextStates:
        audio = decode_excerpt(file, sample_rate=RATE_HZ, seconds=CHUNK_S, subject="sound", name=redact_uri(uri))[0]
        states = self._load_audio_tower()(audio)
        projection = self._model.text.projection
        return TextStates(synchronized(states if projection is None else projection(states)))

    def _load_audio_tower(self) -> ClapAudioEmbedder:
        with self._loading:
            if self._embedder is None:
                model, text = self._model, self._model.text.embedder
                assert isinstance(text, ClapEmbedder)
                self._embedder = ClapAudioEmbedder.load(
                    model.checkpoint.folder, model.tensors, text.codebooks, model.device
                )
            return self._embedder
