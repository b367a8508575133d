"""The paper's ablation of codebook patterns (Copet et al. 2023, table 5): the same data, sizes and budget, one training
each.

Corpus, codec, first weights and tokens are those of the recipe and shared; each pattern trains in
`<output>/ablation/<pattern>` and exports there. What a checkpoint sounds like is measured by whoever calls: `measures`
maps its folder to columns.
"""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from musicgen import patterns
from musicgen.model.checkpoint.resolve import resolve_checkpoint
from musicgen.training.log import read_log
from musicgen.training.recipe import MessageCallback, Recipe, make_trainer, prepare_training

if TYPE_CHECKING:
    from musicgen.training.trainer import StepCallback

CheckpointMeasure = Callable[[Path], Mapping[str, float]]

_CLIPS = 4  # generated to time it


def run_ablation(
    recipe: Recipe,
    command: str = "",
    on_message: MessageCallback = print,
    on_step: "StepCallback | None" = None,
    measures: CheckpointMeasure | None = None,
) -> Path:
    """Train and measure what is left to, and write `table.md` and `table.json`.

    Returns the table's path. Raises `UserError`.
    """
    start, tokens = prepare_training(recipe, on_message)
    folder = recipe.folder / "ablation"
    known = _read_measured_rows(folder / "table.json")
    rows: list[dict[str, Any]] = []
    for pattern in recipe.ablation:
        one = recipe.model_copy(
            update={"training": recipe.training.model_copy(update={"pattern": pattern}), "ablation": ()}
        )
        trainer = make_trainer(one, start, tokens, folder / pattern, command, on_step)
        on_message(f"{pattern}: {'trained already' if trainer.done else 'training'}")
        if trainer.done:
            trainer.export()
        else:
            trainer.run()
        lines = read_log(folder / pattern / "log.jsonl")
        weights = resolve_checkpoint(folder / pattern / "export").identity[:12]
        row = known.get(pattern)
        if row is None or row["weights"] != weights:
            on_message(f"{pattern}: measuring")
            row = {"pattern": pattern, "weights": weights} | _make_row(
                lines, folder / pattern / "export", start.spec, pattern, measures
            )
        known[pattern] = row
        rows.append(row)
        _replace_file(folder / "table.json", json.dumps([*known.values()], indent=1) + "\n")
        _replace_file(folder / "table.md", _format_table(rows))
    return folder / "table.md"


def _read_measured_rows(path: Path) -> dict[str, dict[str, Any]]:
    """The rows that an earlier run measured, by pattern."""
    return {row["pattern"]: row for row in json.loads(path.read_text(encoding="utf-8"))} if path.is_file() else {}


def _replace_file(path: Path, text: str) -> None:
    fresh = path.with_name(f"{path.name}.partial")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)


def _make_row(
    lines: list[dict[str, Any]], export: Path, spec: Any, pattern: str, measures: CheckpointMeasure | None
) -> dict[str, Any]:
    last = lines[-1]
    valid: dict[str, Any] = next((line for line in reversed(lines) if "valid" in line), {})
    return {
        "decoder steps a window": patterns.count_steps(pattern, spec.codebooks, spec.max_frames) - 1,
        "training steps": last["step"],
        "training frames": last["frames"],
        "training hours": round(last["seconds"] / 3600, 3),
        "training loss": last["loss"],
        **{
            f"validation loss{name}": valid.get(key)
            for name, key in (("", "valid"), (", no melody", "valid_text"), (", none", "valid_none"))
        },
        "generated s/s": _measure_speed(export, spec),
        **(measures(export) if measures is not None else {}),
    }


def _measure_speed(export: Path, spec: Any) -> float:
    """Seconds of music that the engine's steps make in a second, with `_CLIPS` clips at once, sound included."""
    from musicgen.api import MusicGen, Request

    seconds = spec.max_frames / spec.frame_rate
    with MusicGen.from_pretrained(str(export), slots=_CLIPS) as model:
        model.generate([Request(prompt="piano", duration_s=min(0.5, seconds))])  # compiles, and allocates
        began = time.perf_counter()
        model.generate([Request(prompt="piano", duration_s=seconds, seed=seed) for seed in range(_CLIPS)])
        return round(_CLIPS * seconds / (time.perf_counter() - began), 2)


def _format_table(rows: list[dict[str, Any]]) -> str:
    names = [name for name in dict.fromkeys(name for row in rows for name in row) if name != "weights"]
    lines = [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
    for row in rows:
        lines.append(f"| {' | '.join(_format_cell(row.get(name)) for name in names)} |")
    return "\n".join(lines) + "\n"


def _format_cell(value: Any) -> str:
    return (
        "-"
        if value is None
        else f"{value:.4g}"
        if isinstance(value, float)
        else f"{value:,}"
        if isinstance(value, int)
        else str(value)
    )
