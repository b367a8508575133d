"""Writes and reads a training's log in JSON lines, and shows it as a line of progress and as a plot of the losses."""

import json
import os
from pathlib import Path

from musicgen.value_types import JsonObject


class TrainingLog:
    """Writes `log.jsonl` of a training. Lines after the step at which it resumes are dropped and made again."""

    def __init__(self, path: Path, step: int):
        self.path = path
        kept_lines = [line for line in read_log(path) if line["step"] <= step]
        temporary = path.with_suffix(".partial")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept_lines), encoding="utf-8")
        os.replace(temporary, path)

    def append(self, line: JsonObject) -> None:
        """Append a line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def read_log(path: Path) -> list[JsonObject]:
    """Read the complete lines of a log; none if there is no log."""
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:  # cut short by a kill
            continue
    return lines


def format_progress(line: JsonObject) -> str:
    """Format a line of the log as a line of progress."""
    codebook_losses = " ".join(f"{loss:.2f}" for loss in line["each"])
    validation = ""
    if "valid" in line:
        validation = (
            f"  valid {line['valid']:.3f} (melody off {line['valid_text']:.3f}, all off {line['valid_none']:.3f})"
        )
    return (
        f"step {line['step']:>6}  {100 * line['progress']:5.1f} %  loss {line['loss']:.3f} ({codebook_losses})  "
        f"{line['frames_per_s']:,.0f} frames/s  {_format_left(line['left_s'])} left{validation}"
    )


def _format_left(left_s: float) -> str:
    return f"{max(0.0, left_s):.0f} s" if left_s < 90 else f"{left_s / 60:,.0f} min"


def plot_losses(log_lines: list[JsonObject], path: Path) -> None:
    """Plot the losses over the steps as a PNG; does nothing without matplotlib (the extra `train`)."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    steps = [line["step"] for line in log_lines]
    for codebook in range(len(log_lines[0]["each"]) if log_lines else 0):
        axes.plot(
            steps,
            [line["each"][codebook] for line in log_lines],
            linewidth=0.6,
            alpha=0.6,
            label=f"codebook {codebook + 1}",
        )
    axes.plot(steps, [line["loss"] for line in log_lines], color="black", linewidth=1, label="training, all")
    for name, label in (
        ("valid", "validation"),
        ("valid_text", "validation, without melody"),
        ("valid_none", "validation, without both"),
    ):
        points = [(line["step"], line[name]) for line in log_lines if name in line]
        if points:
            axes.plot(*zip(*points, strict=True), marker=".", linewidth=1.2, label=label)
    axes.set(xlabel="step", ylabel="cross-entropy, nats a code")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)
