"""What a model family brings: how its checkpoints are recognized and identified, and how its engine is made."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from musicgen.clip import Clip, Failed
from musicgen.generator_spec import GeneratorSpec
from musicgen.model.checkpoint.hub import PullRequest
from musicgen.model.checkpoint.layout import FileLayout
from musicgen.request import Request
from musicgen.unfinished_clips import UnfinishedClips


class GenerationEngine(Protocol):
    """What turns requests into clips; `musicgen.engine.Engine` is one. An actor drives it from one thread."""

    steps: int  # decode or denoising steps so far
    has_made_clips: bool  # the codes of a clip, say; with another number of slots, later ones could differ in bits

    @property
    def slots(self) -> int:
        """Clips that run at once."""

    @property
    def fingerprint(self) -> str:
        """What the bits of a clip may depend on besides its request, as JSON."""

    @property
    def room(self) -> int:
        """How many more requests the engine should be given now."""

    @property
    def busy(self) -> bool:
        """Whether `step` has anything left to do or to return."""

    def add(self, request: Request) -> None:
        """Queue a request. Raises `RowError` for one that the model cannot make."""

    def step(self) -> Sequence[Clip | Failed]:
        """Run for a while and return what is finished, perhaps nothing."""

    def measure_unfinished(self) -> UnfinishedClips:
        """Return how far the clips are that have not been returned yet. It is called from another thread."""

    def close(self) -> None:
        """Stop the engine's threads."""


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How an actor's engine is made.

    `slots` "auto" leaves the number to the engine; `longest_s` is the longest clip of the run; `store_patience_s` is
    how long a melody's store is waited for.
    """

    device: str
    dtype: str
    slots: int | str
    threads: int
    longest_s: float
    store_patience_s: float


@dataclass(frozen=True)
class FamilyCheckpoint:
    """A checkpoint on this machine. `revision` is a hub commit; None for a folder, a bucket and the embedded model."""

    name: str  # as the user wrote it
    folder: Path
    revision: str | None
    family: "Family"
    spec: GeneratorSpec
    pull_request: PullRequest | None = None  # that the weights are of, where `allow_pr` let one be used

    @cached_property
    def identity(self) -> str:
        """The hash of what decides the sound: configs, tokenizers and weights, not the name or the place."""
        return self.family.identify(self.folder)


class Family(Protocol):
    """One kind of model. Each folder of `musicgen.families` has one as `FAMILY`."""

    @property
    def name(self) -> str:
        """The family's name: the index column `family`."""

    @property
    def layout(self) -> FileLayout:
        """The files of its checkpoints, and the one by which they are recognized."""

    def recognizes(self, folder: Path) -> bool:
        """Whether a folder that has the layout's marker holds a checkpoint of this family."""

    def read_spec(self, folder: Path) -> GeneratorSpec:
        """Read the configs, without torch, and check the weights against them. Raises `ModelError`."""

    def identify(self, folder: Path) -> str:
        """Compute the checkpoint's identity, sha256 in hex. Raises `ModelError`."""

    def load_engine(self, checkpoint: FamilyCheckpoint, settings: EngineSettings) -> GenerationEngine:
        """Load the checkpoint onto the device. Raises `ModelError`."""
