"""Runs the paper's ablation of codebook patterns (Copet et al. 2023, table 5): one training per pattern.

All trainings share the recipe's corpus, codec, initial weights and tokens, and have the same sizes and budget. Each
pattern is trained and exported in `<output>/ablation/<pattern>`.
"""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from musicgen import patterns
from musicgen.api import MusicGen
from musicgen.model.checkpoint.resolve import resolve_checkpoint
from musicgen.model.spec import ModelSpec
from musicgen.request import Request
from musicgen.training.log import read_log
from musicgen.training.recipe import Recipe
from musicgen.training.recipe_stages import MessageCallback, make_trainer, prepare_training
from musicgen.training.trainer import StepCallback
from musicgen.value_types import JsonObject

CheckpointMeasure = Callable[[Path], Mapping[str, float]]

"""Measures the checkpoint in a folder: the values of further columns of the table."""

_TIMED_CLIPS = 4  # generated at the same time, to measure the speed


def run_ablation(
    recipe: Recipe,
    command: str = "",
    on_message: MessageCallback = print,
    on_step: StepCallback | None = None,
    measures: CheckpointMeasure | None = None,
) -> Path:
    """Train and measure the patterns that are not measured yet, and write `table.md` and `table.json`.

    `measures` adds columns on the quality of each checkpoint. Returns the path of `table.md`. Raises `UserError`.
    """
    start, tokens = prepare_training(recipe, on_message)
    folder = recipe.folder / "ablation"
    measured_rows = _read_measured_rows(folder / "table.json")
    rows: list[dict[str, object]] = []
    for pattern in recipe.ablation:
        pattern_recipe = recipe.model_copy(
            update={"training": recipe.training.model_copy(update={"pattern": pattern}), "ablation": ()}
        )
        trainer = make_trainer(pattern_recipe, start, tokens, folder / pattern, command, on_step)
        on_message(f"{pattern}: {'trained already' if trainer.done else 'training'}")
        if trainer.done:
            trainer.export()
        else:
            trainer.run()
        log_lines = read_log(folder / pattern / "log.jsonl")
        weights = resolve_checkpoint(folder / pattern / "export").identity[:12]
        row = measured_rows.get(pattern)
        if row is None or row["weights"] != weights:
            on_message(f"{pattern}: measuring")
            row = {"pattern": pattern, "weights": weights} | _make_row(
                log_lines, folder / pattern / "export", start.spec, pattern, measures
            )
        measured_rows[pattern] = row
        rows.append(row)
        _replace_file(folder / "table.json", json.dumps([*measured_rows.values()], indent=1) + "\n")
        _replace_file(folder / "table.md", _format_table(rows))
    return folder / "table.md"


def _read_measured_rows(path: Path) -> dict[str, dict[str, object]]:
    """Read the rows that an earlier run measured, by pattern."""
    return {row["pattern"]: row for row in json.loads(path.read_text(encoding="utf-8"))} if path.is_file() else {}


def _replace_file(path: Path, text: str) -> None:
    partial_path = path.with_name(f"{path.name}.partial")
    partial_path.write_text(text, encoding="utf-8")
    partial_path.replace(path)


def _make_row(
    log_lines: list[JsonObject], export: Path, spec: ModelSpec, pattern: str, measures: CheckpointMeasure | None
) -> dict[str, object]:
    last_line = log_lines[-1]
    validation: dict[str, object] = next((line for line in reversed(log_lines) if "valid" in line), {})
    return {
        "decoder steps a window": patterns.count_steps(pattern, spec.codebooks, spec.max_frames) - 1,
        "training steps": last_line["step"],
        "training frames": last_line["frames"],
        "training hours": round(last_line["seconds"] / 3600, 3),
        "training loss": last_line["loss"],
        **{
            f"validation loss{name}": validation.get(key)
            for name, key in (("", "valid"), (", no melody", "valid_text"), (", none", "valid_none"))
        },
        "generated s/s": _measure_speed(export, spec),
        **(measures(export) if measures is not None else {}),
    }


def _measure_speed(export: Path, spec: ModelSpec) -> float:
    """Measure the speed with `_TIMED_CLIPS` clips at once, codec included, in seconds of music per second."""
    seconds = spec.max_frames / spec.frame_rate
    with MusicGen.from_pretrained(str(export), slots=_TIMED_CLIPS) as model:
        model.generate(
            [Request(prompt="piano", duration_s=min(0.5, seconds))]
        )  # so that compilation and allocation are not timed
        started_at = time.perf_counter()
        model.generate([Request(prompt="piano", duration_s=seconds, seed=seed) for seed in range(_TIMED_CLIPS)])
        return round(_TIMED_CLIPS * seconds / (time.perf_counter() - started_at), 2)


def _format_table(rows: list[dict[str, object]]) -> str:
    names = [name for name in dict.fromkeys(name for row in rows for name in row) if name != "weights"]
    lines = [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
    for row in rows:
        lines.append(f"| {' | '.join(_format_cell(row.get(name)) for name in names)} |")
    return "\n".join(lines) + "\n"


def _format_cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
