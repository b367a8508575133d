"""MusicGen (Copet et al. 2023, "Simple and Controllable Music Generation"): text and melodies to codes of EnCodec."""

from pathlib import Path

from musicgen.families.family import EngineSettings, FamilyCheckpoint, GenerationEngine
from musicgen.model.checkpoint.identity import checkpoint_identity
from musicgen.model.checkpoint.layout import MUSICGEN_LAYOUT
from musicgen.model.checkpoint.resolve import Checkpoint, read_checked_spec
from musicgen.model.spec import ModelSpec


class MusicGenFamily:
    """See `musicgen.families.family.Family`."""

    name = "musicgen"
    layout = MUSICGEN_LAYOUT

    def recognizes(self, folder: Path) -> bool:
        """Every config.json is read as MusicGen's, so that the message says what is wrong with it."""
        return True

    def read_spec(self, folder: Path) -> ModelSpec:
        """See `Family.read_spec`."""
        return read_checked_spec(folder)

    def identify(self, folder: Path) -> str:
        """See `Family.identify`."""
        return checkpoint_identity(folder)

    def load_engine(self, checkpoint: FamilyCheckpoint, settings: EngineSettings) -> GenerationEngine:
        """See `Family.load_engine`."""
        from musicgen.families.musicgen.decoder_engine import load_decoder_engine  # torch, which planning does without

        return load_decoder_engine(as_model_checkpoint(checkpoint), settings)


def as_model_checkpoint(checkpoint: FamilyCheckpoint) -> Checkpoint:
    """Return a checkpoint of this family as `musicgen.model` takes it; nothing is read again."""
    spec = checkpoint.spec
    assert isinstance(spec, ModelSpec)
    return Checkpoint(checkpoint.name, checkpoint.folder, checkpoint.revision, spec, checkpoint.pull_request)


FAMILY = MusicGenFamily()
