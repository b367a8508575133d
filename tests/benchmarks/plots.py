"""Pictures of the results, where matplotlib is installed (extra `bench`)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def draw(results: list[dict[str, Any]], folder: Path) -> list[Path]:
    """`ratio.png` and `step.png` in `folder`; nothing without matplotlib or without results."""
    try:
        import matplotlib
    except ImportError:
        return []
    matplotlib.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    return [path for path in (_ratios(results, folder / "ratio.png"), _steps(results, folder / "step.png")) if path]


def _ratios(results: list[dict[str, Any]], path: Path) -> Path | None:
    from matplotlib import pyplot

    shown = [result for result in results if result.get("ratio") and result.get("goal")]
    if not shown:
        return None
    figure, axes = pyplot.subplots(figsize=(7, 3.5), layout="constrained")
    bars = axes.bar(
        [result["case"] for result in shown], [result["ratio"] for result in shown], width=0.6, color="#3b6ea5"
    )
    axes.bar_label(bars, fmt="%.2f")
    for place, result in enumerate(shown):
        axes.hlines(result["goal"], place - 0.4, place + 0.4, colors="#c0392b", label="goal" if place == 0 else None)
    axes.axhline(1.0, color="grey", linewidth=0.8)
    axes.set_ylabel("audio-s/s, ours over the peer")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
    return path


def _steps(results: list[dict[str, Any]], path: Path) -> Path | None:
    from matplotlib import pyplot

    shown = [result for result in results if result["case"] in ("32x400", "32x60") and result.get("ours_step_ms")]
    if not shown:
        return None
    longest = max(shown, key=lambda result: len(result["ours_step_ms"]))
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for side, label, colour in (("peer", "transformers generate", "#888888"), ("ours", "engine", "#3b6ea5")):
        values = longest.get(f"{side}_step_ms") or []
        axes.plot(range(1, len(values) + 1), smooth(values), label=label, color=colour)
    bounds = longest.get("bound_step_ms") or []
    if bounds:
        axes.plot(range(1, len(bounds) + 1), bounds, "--", label="bound of this machine", color="#c0392b")
    axes.set(xlabel="position (decode step)", ylabel="ms per step", title=f"{longest['clips']} clips", ylim=(0, None))
    axes.legend(frameon=False)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
    return path


def smooth(values: Sequence[float], width: int = 5) -> list[float]:
    """Running median: single hiccups are not what the curve is about."""
    half = width // 2
    return [
        sorted(window)[len(window) // 2]
        for i in range(len(values))
        if (window := values[max(0, i - half) : i + half + 1])
    ]
