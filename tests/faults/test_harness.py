"""The harness itself: schedules are a function of their seed, and the judge sees what it has to see."""

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.harness import Result
from tests.faults.injectors import make_injector
from tests.faults.judge import Outcome, judge_outcome
from tests.faults.schedule import KINDS, TARGETS, draw_schedule
from tests.faults.table import make_table, to_record
from tests.faults.terminal import Line, Terminal

CALM = Outcome(
    made={"k1": "a", "k2": "b"}, ids={"k1": "one", "k2": "two"}, failed={"bad": ("invalid",)}, twice=(), unsound=()
)


def test_a_seed_gives_one_schedule():
    assert [draw_schedule(seed) for seed in range(200)] == [draw_schedule(seed) for seed in range(200)]


def test_the_seeds_draw_every_kind_and_each_can_be_made():
    events = [event for seed in range(1, 301) for event in draw_schedule(seed).events]
    assert {event.kind for event in events} == {*KINDS, "small_disk"}
    for event in events:
        assert event.target in TARGETS
        make_injector(event)


@pytest.mark.parametrize("first", [1, 25, 125, 225, 325])
def test_a_hundred_seeds_draw_every_kind_more_than_once(first: int):
    kinds = Counter(kind for seed in range(first, first + 100) for kind in draw_schedule(seed).kinds)
    assert {kind for kind, count in kinds.items() if count > 1} == {*KINDS, "small_disk"}


def test_a_harness_that_fails_is_trouble():
    record = {"name": "seed 3", "harness": "...", "troubles": ["the harness failed: RuntimeError: no Ray"]}
    assert "1 schedules, 1 with trouble, 0 skipped\n  seed 3: the harness failed: RuntimeError: no Ray" in make_table(
        [record]
    )


def test_the_judge_finds_nothing_in_a_calm_outcome():
    assert judge_outcome(CALM, CALM).holds
    assert Outcome.from_json(CALM.to_json()) == CALM


@pytest.mark.parametrize(
    ("outcome", "field", "rows"),
    [
        (replace(CALM, made={"k1": "a"}, ids={"k1": "one"}), "lost", ("two",)),
        (replace(CALM, failed={}), "lost", ("bad",)),
        (replace(CALM, twice=("one",)), "twice", ("one",)),
        (replace(CALM, failed={"bad": ("invalid",), "two": ("storage",)}), "blamed", ("two (storage)",)),
        (replace(CALM, failed={"bad": ("crash", "invalid")}), "blamed", ("bad (crash)",)),
        (replace(CALM, made={"k1": "a", "k2": "x"}), "changed", ("two",)),
        (
            replace(CALM, made={**CALM.made, "k3": "c"}, ids={**CALM.ids, "k3": "three"}),
            "changed",
            ("three (not planned)",),
        ),
        (replace(CALM, unsound=("k1: gone",)), "unsound", ("k1: gone",)),
    ],
)
def test_the_judge_names_what_is_wrong(outcome: Outcome, field: str, rows: tuple[str, ...]):
    verdict = judge_outcome(outcome, CALM)
    assert getattr(verdict, field) == rows
    assert not verdict.holds


def test_silence_is_the_longest_time_without_a_line_while_the_command_could_speak(tmp_path: Path):
    terminal = Terminal((), None, tmp_path / "log", began=100.0, ended=200.0)  # type: ignore[arg-type]
    terminal.lines += [Line(110.0, "a"), Line(170.0, "b")]
    assert terminal.longest_silence() == (60.0, "log: a")
    terminal.paused.append((120.0, 160.0))
    assert terminal.longest_silence() == (30.0, "log: b")


def test_the_table_counts_faults_and_rows():
    schedule = draw_schedule(1)
    good = Result(schedule, judge_outcome(CALM, CALM), hits={"store_503": 3}, complete=True)
    bad = replace(good, verdict=judge_outcome(replace(CALM, twice=("one",)), CALM))
    text = make_table([to_record(good), to_record(bad)])
    assert "6 planned, 4 made, 2 failed, 0 lost, 1 twice" in text
    assert "2 schedules, 1 with trouble" in text
    assert "store_503" in text


def test_a_command_that_prints_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    terminal = Terminal.start(["--help"], os.environ, tmp_path, "help")
    terminal.process.wait(60)
    assert not terminal.runs
    assert terminal.has_printed("verify")
    assert terminal.tracebacks() == 0
