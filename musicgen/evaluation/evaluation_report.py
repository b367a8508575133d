"""Formats the result of an evaluation: a table for people, report.json for programs."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from musicgen.evaluation.bounds import Verdict, check_bounds

# Label, name of the measure, and whether it is judged against chance.
_ROWS = (
    ("codec: strongest pitch class kept", "codec"),
    ("melody: strongest pitch class as in the melody given", "melody"),
    ("melody: pitch as in the melody given (SwiftF0)", "pitch"),
    ("prompt: instrument", "instrument"),
    ("prompt: tempo within 8 %, half or double too", "tempo"),
    ("prompt: tempo within 8 %", "tempo_exact"),
    ("prompt: major or minor", "mode"),
)
_COLUMNS = ("clips", "codec'd", "originals", "chance", "p", "n")


@dataclass(frozen=True)
class EvaluationReport:
    """The measures of one model, and the circumstances of the evaluation (`about`)."""

    model: str
    measures: Mapping[str, float]
    about: Mapping[str, object] = field(default_factory=dict)

    @property
    def verdicts(self) -> list[Verdict]:
        """Check every bound."""
        return check_bounds(self.measures)

    @property
    def short(self) -> list[Verdict]:
        """Return the verdicts on the bounds that do not hold."""
        return [verdict for verdict in self.verdicts if not verdict.met]

    def to_json(self) -> dict[str, object]:
        """Return the report for JSON; measures that could not be taken are null."""
        bounds = [
            {
                "measure": verdict.bound.measure,
                "value": _json_number(verdict.value),
                "relation": verdict.bound.relation,
                "bound": verdict.bound.limit,
                "met": verdict.met,
            }
            for verdict in self.verdicts
        ]
        measures = {name: _json_number(value) for name, value in self.measures.items()}
        return {"model": self.model, "sound": not self.short, "bounds": bounds, "measures": measures, **self.about}

    def write(self, path: Path) -> None:
        """Write the report to a JSON file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.to_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    def table(self) -> str:
        """Format the measures, next to those of the codec's round trip and of the originals, and then the bounds."""
        lines = [_format_line("", _COLUMNS)]
        lines += [
            _format_line(label, _format_cells(self.measures, name))
            for label, name in _ROWS
            if f"{name}.value" in self.measures
        ]
        lines += ["", *_format_unbounded(self.measures), ""]
        lines += [f"{'met  ' if verdict.met else 'SHORT'} {verdict}" for verdict in self.verdicts]
        return "\n".join(lines)


def _format_cells(measures: Mapping[str, float], name: str) -> list[str]:
    columns = ("value", "codec", "original", "chance", "p", "n")
    values = [measures.get(f"{name}.{column}") for column in columns]
    return [
        ""
        if value is None
        else f"{value:.0f}"
        if column == "n"
        else f"{value:.1e}"
        if column == "p"
        else _format_percent(value)
        for column, value in zip(columns, values, strict=True)
    ]


def _format_unbounded(measures: Mapping[str, float]) -> list[str]:
    """Format the measures that have no bound."""
    lines = []
    if "melody.ratio" in measures:
        lines.append(
            f"melody agreement: {measures['melody.ratio']:.2f} times that with others' melodies; "
            f"clips of the same prompts without a melody agree in {_format_percent(measures['melody.text'])}"
        )
    for kind, label in (("text", "by prompt"), ("melody", "by prompt and melody")):
        if f"frechet.{kind}" in measures:
            lines.append(
                f"clips {label}: {_format_percent(measures[f'clipped.{kind}'])} beyond full scale, "
                f"{_format_percent(measures[f'silent.{kind}'])} silent, "
                f"{measures[f'loudness.{kind}']:.1f} LUFS, Frechet distance {measures[f'frechet.{kind}']:.1f}"
            )
    if "melody.ratio" in measures:
        shares = ", ".join(
            f"{name} {_format_percent(measures[f'{name}.melody'])}" for name in ("instrument", "tempo", "mode")
        )
        lines.append(f"clips by prompt and melody, their prompts: {shares}")
    if "frechet.codec" in measures:
        lines.append(
            f"codec round trip: Frechet distance {measures['frechet.codec']:.1f}, {measures['codec.loudness']:.1f} LUFS"
        )
    return [
        *lines,
        f"originals of the train split to those of the test split: Frechet distance {measures['frechet.floor']:.1f}",
    ]


def _format_line(label: str, cells: Sequence[str]) -> str:
    return f"{label:<54}" + "".join(f"{cell:>11}" for cell in cells)


def _format_percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f} %"


def _json_number(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), 6)
