"""A recipe: what is trained, on what, for how long; one YAML file, one command, stages that are not done twice.

    corpus (or your own data) -> codec -> start (a checkpoint of random weights) -> tokens -> training -> export

Each stage leaves its product in a folder of `output`, whole or not at all; a product that is there is taken as it is.
"""

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from musicgen.errors import JobError, MusicGenError, UserError
from musicgen.job_errors import describe_errors
from musicgen.job_file import JobDocument
from musicgen.job_keys import known_keys
from musicgen.model.checkpoint.resolve import EMBEDDED, Checkpoint, resolve_checkpoint
from musicgen.training.schedule import Schedule
from musicgen.training.start import ModelSizes, StoredCodec, write_initial_checkpoint

if TYPE_CHECKING:
    from musicgen.storage import Store
    from musicgen.training.tokens import TokenizedData
    from musicgen.training.trainer import StepCallback, Trainer

MessageCallback = Callable[[str], None]

_MADE_OF = "made_of.json"  # the settings that codec and start were made with


class CorpusSettings(BaseModel):
    """The corpus to compose, where no `data` is given."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    clips: int = Field(default=4000, ge=10)
    seconds: float = Field(default=10.0, gt=1)


class CodecSettings(BaseModel):
    """Where the codec comes from: fitted on the data, or taken from a checkpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    of: str | None = None  # a checkpoint whose codec is taken; None: fit a spectral codec
    fit_clips: int = Field(default=600, ge=1)
    codebook_size: int = Field(default=1024, ge=2)


class ExportSettings(BaseModel):
    """The checkpoint that comes out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dtype: Literal["float16", "float32"] | None = None  # None: as stored where it began
    title: str = "A MusicGen model trained with musicgen-batch"
    about: str = ""  # what its model card says besides, Markdown


class Recipe(BaseModel):
    """A recipe, as its file says it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    output: str = Field(min_length=1)
    data: str | None = None  # a folder of audio and captions, or a dataset; None: the corpus
    start: str | None = None  # a checkpoint to train on from; None: random weights
    corpus: CorpusSettings = Field(default_factory=CorpusSettings)
    codec: CodecSettings = Field(default_factory=CodecSettings)
    model: ModelSizes = Field(default_factory=ModelSizes)
    training: Schedule
    export: ExportSettings = Field(default_factory=ExportSettings)
    ablation: tuple[str, ...] = ()  # patterns, each trained alike: `musicgen.training.ablation`

    @classmethod
    def load(
        cls, path: str | Path | None, overrides: Sequence[str] = (), flags: Mapping[str, tuple[str, Any]] | None = None
    ) -> "Recipe":
        """The recipe of a YAML file (or of flags alone). `flags`: flag -> (key, value). Raises `JobError`, one line."""
        document = JobDocument.read(path) if path is not None else JobDocument()
        for flag, (key, value) in (flags or {}).items():
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
                "encoder of random "
                "weights, which only the composed corpus teaches: write train, or give a checkpoint (--from)"
            )
        if recipe.data is not None and recipe.start is None and recipe.model.ticks:
            raise JobError(
                f"{document.origin(('model', 'ticks'))}`model.ticks` wants a text encoder that was taught, which "
                "only the composed corpus "
                "does: leave it out, or give a checkpoint (--from)"
            )
        return recipe

    @property
    def folder(self) -> Path:
        """Where everything goes."""
        return Path(self.output).expanduser()


def run_recipe(
    recipe: Recipe, command: str = "", on_message: MessageCallback = print, on_step: "StepCallback | None" = None
) -> Path:
    """Do what is left to do of a recipe. Returns the folder of the exported checkpoint. Raises `UserError`."""
    start, tokens = prepare_training(recipe, on_message)
    trainer = make_trainer(recipe, start, tokens, recipe.folder, command, on_step)
    if trainer.done:
        on_message(f"trained already: {trainer.counters.step} steps")
        trainer.export()
    else:
        trainer.run()
    return recipe.folder / "export"


def prepare_training(recipe: Recipe, on_message: MessageCallback = print) -> "tuple[Checkpoint, TokenizedData]":
    """Everything before the training: the checkpoint to start from, and the tokens."""
    from musicgen.storage import open_store
    from musicgen.training.tokens import make_tokens

    folder = recipe.folder
    folder.mkdir(parents=True, exist_ok=True)
    data = open_store(recipe.data if recipe.data is not None else str(_make_corpus(recipe, on_message)))
    start = _make_start(recipe, data, on_message)
    tokens = make_tokens(data, start, folder / "tokens", progress=on_message)
    for name, reason in tokens.bad_rows[:10]:
        on_message(f"{name}: {reason}")
    if len(tokens.bad_rows) > 10:
        on_message(f"... and {len(tokens.bad_rows) - 10} more in {folder / 'tokens' / 'bad.json'}")
    return start, tokens


def make_trainer(
    recipe: Recipe,
    start: Checkpoint,
    tokens: "TokenizedData",
    folder: Path,
    command: str = "",
    on_step: "StepCallback | None" = None,
) -> "Trainer":
    """The trainer of a recipe, its state and export in `folder`."""
    from musicgen.training.export import export_checkpoint, format_model_card
    from musicgen.training.log import read_log
    from musicgen.training.trainer import Trainer

    def save(trainer: "Trainer") -> None:
        text = format_model_card(
            title=recipe.export.title,
            start=start,
            pattern=trainer.pattern,
            data=recipe.data or "the corpus that the project composes",
            clips=len(tokens.split("train")),
            hours_of_music=tokens.frames_of("train") / start.spec.frame_rate / 3600,
            about=recipe.export.about,
            bad=len(tokens.bad_rows),
            lines=read_log(folder / "log.jsonl"),
            parameters=sum(p.numel() for p in trainer.names.values()),
            command=command or f"musicgen train --output {shlex.quote(recipe.output)}",
            schedule=recipe.training.model_dump(),
        )
        export_checkpoint(trainer.average, start, folder / "export", trainer.pattern, recipe.export.dtype, text)

    try:
        return Trainer(start, tokens, recipe.training, folder, save, on_step, align=recipe.start is None)
    except ValueError as error:
        raise UserError(f"{start.name}: {error}") from None


def _make_corpus(recipe: Recipe, on_message: MessageCallback) -> Path:
    from musicgen.corpus.write import write_corpus

    folder = recipe.folder / "corpus"
    if not (folder / "captions.parquet").is_file():
        on_message(f"corpus: composing {recipe.corpus.clips} clips of {recipe.corpus.seconds:g} s")
    try:
        return write_corpus(
            folder, recipe.corpus.clips, recipe.training.seed, recipe.corpus.seconds, on_message=on_message
        )
    except ValueError as error:
        raise UserError(str(error)) from None


def _codec_settings(recipe: Recipe) -> dict[str, Any]:
    return {"data": recipe.data, "codec": recipe.codec.model_dump(), "seed": recipe.training.seed}


def _stage_done(recipe: Recipe, stage: str, settings: dict[str, Any]) -> bool:
    """Whether a stage's product is there. Raises `UserError` if it is, and was made with other settings."""
    if not (recipe.folder / stage / "model.safetensors").is_file():
        return False
    note = recipe.folder / _MADE_OF
    known = json.loads(note.read_text(encoding="utf-8")) if note.is_file() else {}
    if known.get(stage) != settings:
        raise UserError(
            f"{recipe.folder / stage} was made with other settings ({json.dumps(known.get(stage))}) than the recipe "
            "has "
            f"({json.dumps(settings)}); give another --output, or delete the folder and what was trained from it"
        )
    return True


def _record_stage(recipe: Recipe, stage: str, settings: dict[str, Any]) -> None:
    note = recipe.folder / _MADE_OF
    known = json.loads(note.read_text(encoding="utf-8")) if note.is_file() else {}
    note.write_text(json.dumps(known | {stage: settings}, indent=1) + "\n", encoding="utf-8")


def _make_start(recipe: Recipe, data: "Store", on_message: MessageCallback) -> Checkpoint:
    if recipe.start is not None:
        return resolve_checkpoint(recipe.start)
    from musicgen.training.data import read_rows

    folder = recipe.folder / "start"
    seed, pattern = recipe.training.seed, recipe.training.pattern or "delay"
    settings = _codec_settings(recipe) | {"model": recipe.model.model_dump(), "pattern": pattern}
    if not _stage_done(recipe, "start", settings):
        codec = (
            StoredCodec.from_checkpoint(resolve_checkpoint(recipe.codec.of))
            if recipe.codec.of
            else _make_codec(recipe, data, on_message)
        )
        prompts = [row.prompt for row in read_rows(data)]
        _record_stage(recipe, "start", settings)
        lessons = None
        if recipe.data is None:
            from musicgen.training.text_pretraining import train_text_encoder

            lessons = partial(train_text_encoder, seed=seed, on_message=on_message)
        write_initial_checkpoint(folder, recipe.model, codec, prompts, seed, pattern, lessons)
    return resolve_checkpoint(folder)


def _make_codec(recipe: Recipe, data: "Store", on_message: MessageCallback) -> StoredCodec:
    """The spectral codec, fitted on training clips drawn evenly, or as an earlier run left it."""
    import torch
    from safetensors.torch import load_file, save_file

    from musicgen.model.codec.spectral_settings import SpectralSettings
    from musicgen.training.data import read_rows
    from musicgen.training.fit_codec import fit_codec

    folder = recipe.folder / "codec"
    settings = SpectralSettings(codebook_size=recipe.codec.codebook_size)
    made_of = _codec_settings(recipe)
    if not _stage_done(recipe, "codec", made_of):
        _record_stage(recipe, "codec", made_of)
        train = [row for row in read_rows(data) if row.split == "train"]
        chosen = np.random.default_rng(recipe.training.seed).permutation(len(train))[: recipe.codec.fit_clips]
        on_message(f"codec: fitting on {len(chosen)} clips")
        sounds = (
            sound
            for number in sorted(chosen)
            if (sound := _read_sound(train[number], data, settings.sampling_rate)) is not None
        )
        fitted = fit_codec(sounds, settings, recipe.training.seed)
        on_message(
            f"codec: {', '.join(f'{left:.3f}' for left in fitted.residual_variance)} of the variance left after "
            "each codebook"
        )
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps(fitted.settings.to_section(), indent=2) + "\n", encoding="utf-8")
        tensors = {
            f"audio_encoder.{name}": torch.from_numpy(np.ascontiguousarray(value)).half()
            for name, value in fitted.tensors.items()
        }
        save_file(tensors, folder / "model.safetensors")
    return StoredCodec(
        json.loads((folder / "config.json").read_text(encoding="utf-8")), load_file(folder / "model.safetensors")
    )


def _read_sound(row: Any, data: "Store", sample_rate: int) -> NDArray[np.float32] | None:
    from musicgen.audio.read import decode_excerpt

    try:
        with row.open_audio(data) as file:
            return decode_excerpt(file, sample_rate=sample_rate, seconds=60.0, subject="audio", name=row.name)[0]
    except (MusicGenError, OSError):
        return None  # named when the tokens are made


def with_default_codec(recipe: Recipe) -> Recipe:
    """A recipe of flags alone takes the codec of the embedded model, unless it says otherwise."""
    if recipe.start is None and recipe.codec.of is None and recipe.data is not None:
        return recipe.model_copy(update={"codec": recipe.codec.model_copy(update={"of": EMBEDDED})})
    return recipe
