"""Melodies on disk, a loaded melody model, and transformers' own."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from musicgen.conditioning.conditioner import RequestConditioner
from musicgen.model import Model, load_model
from musicgen.request import Request
from tests.musicgen.conditioning.music import tune, write


@pytest.fixture(scope="session")
def melodies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tunes: `a.wav` (7 s), `b.flac` (12 s, another one), `long.ogg` (45 s), `short.wav` (1 s)."""
    folder = tmp_path_factory.mktemp("melodies")
    write(folder / "a.wav", tune(7.0))
    write(folder / "b.flac", tune(12.0, 44_100, notes=(57, 61, 64, 68), note_s=0.7), 44_100)
    write(folder / "long.ogg", tune(45.0, note_s=1.1))
    write(folder / "short.wav", tune(1.0))
    return folder


@pytest.fixture(scope="session")
def melody_model(melody_checkpoint: Path) -> Model:
    """The melody checkpoint, loaded in float32."""
    return load_model(melody_checkpoint, "cpu", "float32")


@pytest.fixture
def conditioner(melody_model: Model) -> Iterator[RequestConditioner]:
    """A conditioner that remembers nothing yet."""
    conditioner = RequestConditioner(melody_model)
    yield conditioner
    conditioner.close()


@pytest.fixture(scope="session")
def oracle(melody_checkpoint: Path):
    """transformers' melody model, float32."""
    from transformers import MusicgenMelodyForConditionalGeneration

    return MusicgenMelodyForConditionalGeneration.from_pretrained(melody_checkpoint, dtype=torch.float32).eval()


def prefix_length(conditioner: RequestConditioner, request: Request) -> int:
    """Positions of a request's prefix: the sound's (one for a style model's row without excerpt), then the prompt's
    tokens.
    """
    if conditioner.spec.kind == "text":
        return 0
    tokens = conditioner.text.encode(request.prompt).states.shape[0]
    if conditioner.style is not None:
        return tokens + (conditioner.style.positions if request.melody else 1)
    return tokens + conditioner.spec.chroma_length
