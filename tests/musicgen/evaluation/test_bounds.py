"""Bounds that are met and bounds that fall short."""

import json
import math

import pytest

from musicgen.evaluation import EvaluationReport
from musicgen.evaluation.bounds import BOUNDS, check_bounds


def _met() -> dict[str, float]:
    values = {bound.measure: bound.limit / 2 if bound.relation == "<" else bound.limit for bound in BOUNDS}
    return {**values, "melody.value": 0.5, "frechet.floor": 1.0}


def test_limits_themselves_are_met() -> None:
    assert all(verdict.met for verdict in check_bounds(_met()))


@pytest.mark.parametrize("bound", BOUNDS, ids=lambda bound: bound.measure)
def test_each_bound_falls_short_by_itself_and_is_named(bound) -> None:
    worse = bound.limit - 0.01 if bound.relation == ">=" else bound.limit + 0.01
    for value in (worse, math.nan):
        report = EvaluationReport("m", {**_met(), bound.measure: value})
        assert [verdict.bound for verdict in report.short] == [bound]
        assert bound.measure in str(report.short[0])
        assert not report.to_json()["sound"]


def test_missing_measures_fall_short_except_for_models_without_melody() -> None:
    measures = _met()
    del measures["instrument.value"]
    assert [v.bound.measure for v in check_bounds(measures) if not v.met] == ["instrument.value"]
    without = {name: value for name, value in _met().items() if not name.startswith("melody.")}
    assert all(v.met and not v.bound.measure.startswith("melody.") for v in check_bounds(without))


def test_a_report_is_json_without_nan() -> None:
    told = json.dumps(EvaluationReport("m", {**_met(), "pitch.value": math.nan}).to_json(), allow_nan=False)
    assert json.loads(told)["measures"]["pitch.value"] is None
