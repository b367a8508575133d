"""Runs a recipe in stages, each of which leaves its product in a folder of `output`, complete or not at all.

    corpus (or your own data) -> codec -> start (a checkpoint of random weights) -> tokens -> training -> export

A product that is there already is used as it is.
"""

import json
import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from musicgen.audio.read import decode_excerpt
from musicgen.corpus.write import write_corpus
from musicgen.errors import MusicGenError, UserError
from musicgen.model.checkpoint.resolve import Checkpoint, resolve_checkpoint
from musicgen.model.codec.spectral_settings import SpectralSettings
from musicgen.storage import Store, open_store
from musicgen.training.data import DataRow, read_rows
from musicgen.training.export import export_checkpoint, format_model_card
from musicgen.training.fit_codec import fit_codec
from musicgen.training.log import read_log
from musicgen.training.recipe import Recipe
from musicgen.training.start import StoredCodec, write_initial_checkpoint
from musicgen.training.text_pretraining import train_text_encoder
from musicgen.training.tokens import TokenizedData, make_tokens
from musicgen.training.trainer import StepCallback, Trainer

MessageCallback = Callable[[str], None]

_STAGES_FILE = "made_of.json"  # holds the settings that codec and start were made with


def run_recipe(
    recipe: Recipe, command: str = "", on_message: MessageCallback = print, on_step: StepCallback | None = None
) -> Path:
    """Run the unfinished stages of a recipe. Returns the folder of the exported checkpoint. Raises `UserError`."""
    start, tokens = prepare_training(recipe, on_message)
    trainer = make_trainer(recipe, start, tokens, recipe.folder, command, on_step)
    if trainer.done:
        on_message(f"trained already: {trainer.counters.step} steps")
        trainer.export()
    else:
        trainer.run()
    return recipe.folder / "export"


def prepare_training(recipe: Recipe, on_message: MessageCallback = print) -> tuple[Checkpoint, TokenizedData]:
    """Run all stages before the training. Returns the checkpoint to start from, and the tokens."""
    folder = recipe.folder
    folder.mkdir(parents=True, exist_ok=True)
    data_store = open_store(recipe.data if recipe.data is not None else str(_make_corpus(recipe, on_message)))
    start = _make_start(recipe, data_store, on_message)
    if warning := recipe.training.warn_if_short():
        on_message(f"warning: {warning}")
    tokens = make_tokens(data_store, start, folder / "tokens", progress=on_message)
    for name, reason in tokens.bad_rows[:10]:
        on_message(f"{name}: {reason}")
    if len(tokens.bad_rows) > 10:
        on_message(f"... and {len(tokens.bad_rows) - 10} more in {folder / 'tokens' / 'bad.json'}")
    return start, tokens


def make_trainer(
    recipe: Recipe,
    start: Checkpoint,
    tokens: TokenizedData,
    folder: Path,
    command: str = "",
    on_step: StepCallback | None = None,
) -> Trainer:
    """Make the trainer of a recipe, with its state and export in `folder`."""

    def save(trainer: Trainer) -> None:
        text = format_model_card(
            title=recipe.export.title,
            start=start,
            pattern=trainer.pattern,
            data=recipe.data or "the corpus that the project composes",
            clips=len(tokens.split("train")),
            hours_of_music=tokens.frames_of("train") / start.spec.frame_rate / 3600,
            about=recipe.export.about,
            unusable_rows=len(tokens.bad_rows),
            log_lines=read_log(folder / "log.jsonl"),
            parameters=sum(parameter.numel() for parameter in trainer.trained_parameters.values()),
            command=command or f"musicgen train --output {shlex.quote(recipe.output)}",
            schedule=recipe.training.model_dump(),
        )
        export_checkpoint(trainer.average, start, folder / "export", trainer.pattern, recipe.export.dtype, text)

    try:
        return Trainer(start, tokens, recipe.training, folder, save, on_step, align=recipe.start is None)
    except ValueError as error:
        raise UserError(f"{start.name}: {error}") from None


def _make_corpus(recipe: Recipe, on_message: MessageCallback) -> Path:
    folder = recipe.folder / "corpus"
    if not (folder / "captions.parquet").is_file():
        on_message(f"corpus: composing {recipe.corpus.clips} clips of {recipe.corpus.seconds:g} s")
    try:
        return write_corpus(
            folder, recipe.corpus.clips, recipe.training.seed, recipe.corpus.seconds, on_message=on_message
        )
    except ValueError as error:
        raise UserError(str(error)) from None


def _codec_settings(recipe: Recipe) -> dict[str, object]:
    return {"data": recipe.data, "codec": recipe.codec.model_dump(), "seed": recipe.training.seed}


def _stage_done(recipe: Recipe, stage: str, settings: dict[str, object]) -> bool:
    """Return whether a stage's product exists. Raises `UserError` if it was made with other settings."""
    if not (recipe.folder / stage / "model.safetensors").is_file():
        return False
    stages_path = recipe.folder / _STAGES_FILE
    settings_by_stage = json.loads(stages_path.read_text(encoding="utf-8")) if stages_path.is_file() else {}
    made_with = settings_by_stage.get(stage)
    if made_with != settings:
        raise UserError(
            f"{recipe.folder / stage} was made with other settings than the recipe has "
            f"({_describe_difference(made_with or {}, settings)}); give another --output, or delete the folder and "
            "what was trained from it"
        )
    return True


def _describe_difference(made_with: dict[str, object], settings: dict[str, object]) -> str:
    """Return the settings that differ, by their dotted names: `model.layers: 2, and 3 in the recipe`."""
    before, now = _name_values(made_with), _name_values(settings)
    same = {name for name in before.keys() & now.keys() if before[name] == now[name]}
    names = [name for name in before | now if name not in same]
    return "; ".join(
        f"{name}: {before.get(name, 'not set')}, and {now.get(name, 'not set')} in the recipe" for name in names
    )


def _name_values(settings: dict[str, object]) -> dict[str, object]:
    values: dict[str, object] = {}
    for name, value in settings.items():
        values |= {f"{name}.{key}": inner for key, inner in value.items()} if isinstance(value, dict) else {name: value}
    return values


def _record_stage(recipe: Recipe, stage: str, settings: dict[str, object]) -> None:
    stages_path = recipe.folder / _STAGES_FILE
    settings_by_stage = json.loads(stages_path.read_text(encoding="utf-8")) if stages_path.is_file() else {}
    stages_path.write_text(json.dumps(settings_by_stage | {stage: settings}, indent=1) + "\n", encoding="utf-8")


def _make_start(recipe: Recipe, data_store: Store, on_message: MessageCallback) -> Checkpoint:
    if recipe.start is not None:
        return resolve_checkpoint(recipe.start)

    folder = recipe.folder / "start"
    seed, pattern = recipe.training.seed, recipe.training.pattern or "delay"
    settings = _codec_settings(recipe) | {"model": recipe.model.model_dump(), "pattern": pattern}
    if not _stage_done(recipe, "start", settings):
        codec = (
            StoredCodec.from_checkpoint(resolve_checkpoint(recipe.codec.of))
            if recipe.codec.of
            else _make_codec(recipe, data_store, on_message)
        )
        prompts = [row.prompt for row in read_rows(data_store)]
        _record_stage(recipe, "start", settings)
        teach = None
        if recipe.data is None:
            teach = partial(train_text_encoder, seed=seed, on_message=on_message)
        write_initial_checkpoint(folder, recipe.model, codec, prompts, seed, pattern, teach)
    return resolve_checkpoint(folder)


def _make_codec(recipe: Recipe, data_store: Store, on_message: MessageCallback) -> StoredCodec:
    """Fit the spectral codec on drawn training clips, or read the one that an earlier run fitted."""

    folder = recipe.folder / "codec"
    settings = SpectralSettings(codebook_size=recipe.codec.codebook_size)
    stage_settings = _codec_settings(recipe)
    if not _stage_done(recipe, "codec", stage_settings):
        _record_stage(recipe, "codec", stage_settings)
        training_rows = [row for row in read_rows(data_store) if row.split == "train"]
        clip_numbers = np.random.default_rng(recipe.training.seed).permutation(len(training_rows))[
            : recipe.codec.fit_clips
        ]
        on_message(f"codec: fitting on {len(clip_numbers)} clips")
        waveforms = (
            waveform
            for clip_number in sorted(clip_numbers)
            if (waveform := _read_waveform(training_rows[clip_number], data_store, settings.sampling_rate)) is not None
        )
        fitted = fit_codec(waveforms, settings, recipe.training.seed)
        on_message(
            f"codec: {', '.join(f'{share:.3f}' for share in fitted.residual_variance)} of the variance left after "
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


def _read_waveform(row: DataRow, data_store: Store, sample_rate: int) -> NDArray[np.float32] | None:
    try:
        with row.open_audio(data_store) as file:
            return decode_excerpt(file, sample_rate=sample_rate, seconds=60.0, subject="audio", name=row.name)[0]
    except (MusicGenError, OSError):
        return None  # reported when the tokens are made
