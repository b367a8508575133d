"""Defines the bounds that a model's measures must meet, and checks them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Relation = Literal[">=", "<=", "<"]


@dataclass(frozen=True, slots=True)
class Bound:
    """A limit for one measure; `measure` is a key of the result of `measure_model`."""

    measure: str
    relation: Relation
    limit: float
    description: str

    def holds(self, value: float) -> bool:
        """Return whether a value meets the bound; NaN meets none."""
        if math.isnan(value):
            return False
        return {">=": value >= self.limit, "<=": value <= self.limit, "<": value < self.limit}[self.relation]


BOUNDS = (
    Bound("codec.value", ">=", 0.85, "codec round trip: frames that keep their strongest pitch class"),
    Bound("codec.clipped", "<=", 0, "codec round trip: clips beyond full scale"),
    Bound("codec.silent", "<=", 0, "codec round trip: silent clips"),
    Bound("melody.ratio", ">=", 3.0, "melody: agreement with the melody given, as a multiple of that with others"),
    Bound("melody.n", ">=", 100, "melody: clips judged"),
    Bound("melody.p", "<", 0.001, "melody: far from chance"),
    Bound("instrument.value", ">=", 0.60, "prompt: the instrument asked for"),
    Bound("instrument.p", "<", 0.001, "instrument: far from chance"),
    Bound(
        "tempo.value", ">=", 0.50, "prompt: the tempo asked for, within 8 %, half or double counted, clips with drums"
    ),
    Bound("tempo.p", "<", 0.001, "tempo: far from chance"),
    Bound("mode.value", ">=", 0.65, "prompt: major or minor as asked for"),
    Bound("mode.p", "<", 0.001, "mode: far from chance"),
)


LEAST_CLIPS = int(next(bound.limit for bound in BOUNDS if bound.measure == "melody.n"))
"""With fewer clips a model that takes melodies falls short, however good it is."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A bound, the measured value, and whether it meets the bound."""

    bound: Bound
    value: float
    met: bool

    def __str__(self) -> str:
        return (
            f"{self.bound.description}: {self.value:.4g}, to be {self.bound.relation} {self.bound.limit:g} "
            f"({self.bound.measure})"
        )


def check_bounds(measures: Mapping[str, float]) -> list[Verdict]:
    """Check every bound; those of the melody only for models that take melodies (those with "melody.value")."""
    bounds = [bound for bound in BOUNDS if "melody.value" in measures or not bound.measure.startswith("melody.")]
    values = [float(measures.get(bound.measure, math.nan)) for bound in bounds]
    return [Verdict(bound, value, bound.holds(value)) for bound, value in zip(bounds, values, strict=True)]
