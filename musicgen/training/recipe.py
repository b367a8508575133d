"""Reads and checks a recipe: a YAML file with the settings of a training, its model and its data."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from musicgen.errors import JobError
from musicgen.job_errors import describe_errors
from musicgen.job_file import JobDocument
from musicgen.job_keys import known_keys
from musicgen.presets import EMBEDDED, resolve_config
from musicgen.training.schedule import Schedule
from musicgen.training.start import ModelSizes


class CorpusSettings(BaseModel):
    """The corpus to compose, where no `data` is given."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    clips: int = Field(default=4000, ge=10)
    seconds: float = Field(default=10.0, gt=1)


class CodecSettings(BaseModel):
    """The codec: fitted on the data, or that of a checkpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    of: str | None = None  # a checkpoint whose codec is used; None: fit a spectral codec
    fit_clips: int = Field(default=600, ge=1)
    codebook_size: int = Field(default=1024, ge=2)


class ExportSettings(BaseModel):
    """The exported checkpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dtype: Literal["float16", "float32"] | None = None  # None: as in the checkpoint that the training starts from
    title: str = "A MusicGen model trained with musicgen-batch"
    about: str = ""  # Markdown that is added to the model card


class Recipe(BaseModel):
    """The settings of a recipe's file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    output: str = Field(min_length=1)
    data: str | None = None  # a folder of audio and captions, or a dataset; None: the corpus
    start: str | None = None  # a checkpoint to train on from; None: random weights
    corpus: CorpusSettings = Field(default_factory=CorpusSettings)
    codec: CodecSettings = Field(default_factory=CodecSettings)
    model: ModelSizes = Field(default_factory=ModelSizes)
    training: Schedule
    export: ExportSettings = Field(default_factory=ExportSettings)
    ablation: tuple[str, ...] = ()  # patterns that are each trained in the same way: `musicgen.training.ablation`

    @classmethod
    def load(
        cls,
        path: str | Path | None,
        overrides: Sequence[str] = (),
        flags: Iterable[tuple[str, str, object]] = (),
    ) -> "Recipe":
        """Load the recipe of a YAML file, or of flags alone. `flags` are (flag, key, value). Raises `JobError`."""
        document = JobDocument.read(resolve_config(path)) if path is not None else JobDocument()
        for flag, key, value in flags:
            document.set(key, value, origin=flag)
        for override in overrides:
            document.override(override)
        document.check_keys(known_keys(cls))
        values = document.expand_variables()
        values.setdefault("training", {})
        if not values.get("output"):
            raise JobError("the recipe names no output: give --output FOLDER, or `output` in its file")
        if values.get("start") and (taken := [name for name in ("model", "codec") if values.get(name)]):
            raise JobError(
                f"{document.origin((taken[0],))}`{taken[0]}` says nothing with `start`: that checkpoint's own is "
                "kept; leave it out"
            )
        try:
            recipe = cls.model_validate(values)
        except ValidationError as error:
            raise JobError(describe_errors(error, document)) from None
        if recipe.training.text_encoder == "freeze" and recipe.data is not None and recipe.start is None:
            raise JobError(
                f"{document.origin(('training', 'text_encoder'))}`training.text_encoder: freeze` would keep a text "
                "encoder of random weights, which only the composed corpus teaches: write train, or give a checkpoint "
                "(--from)"
            )
        if recipe.data is not None and recipe.start is None and recipe.model.ticks:
            raise JobError(
                f"{document.origin(('model', 'ticks'))}`model.ticks` wants a text encoder that was taught, which "
                "only the composed corpus does: leave it out, or give a checkpoint (--from)"
            )
        return recipe

    @property
    def folder(self) -> Path:
        """Return the folder for all products."""
        return Path(self.output).expanduser()


def with_default_codec(recipe: Recipe) -> Recipe:
    """Use the codec of the embedded model in a recipe of flags alone that trains a new model on own data."""
    if recipe.start is None and recipe.codec.of is None and recipe.data is not None:
        return recipe.model_copy(update={"codec": recipe.codec.model_copy(update={"of": EMBEDDED})})
    return recipe
