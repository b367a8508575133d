"""Every interleaving of planners, drivers, zombies, lost replies and kills, in a model (commit_model.py).

docs/commit.md states the invariants; what is checked here has their numbers.
"""

from collections import Counter
from collections.abc import Iterable

import pytest

from tests.musicgen.plan.commit_model import (
    JOBS,
    Part,
    Planner,
    Process,
    Repairer,
    Run,
    Store,
    Writer,
    explore,
    run_alone,
)

OLD = Run.plan("A", 1, JOBS["A"], "old")
OTHER = Run.plan("B", 1, JOBS["B"], "other")
ZOMBIES = (Writer("zombie/0", OLD, 0), Writer("zombie/1", OLD, 1))
STORES = {
    "empty": Store(),
    "half planned": Store(order=(OLD,)),  # its planner was killed before it wrote plan.json
    "unfinished": Store(order=(OLD,), plans=frozenset({OLD})),
    "half closed": Store(
        order=(OLD,),
        plans=frozenset({OLD}),
        notes=frozenset({OLD}),
        parts=frozenset({Part(OLD, 1, "a planner that was killed", made=False)}),
    ),
    "earlier release": Store(earlier=(OLD,)),
    "two of an earlier release": Store(earlier=(OLD, OTHER)),
}
FAST = [  # (store, the second planner's job, whether the first and the second supersede)
    *(("empty", job, (first, second)) for job in "AB" for first in (False, True) for second in (False, True)),
    ("unfinished", "A", (False, False)),
    ("unfinished", "A", (True, False)),
    ("unfinished", "B", (False, True)),
    ("half planned", "B", (False, False)),
    ("half closed", "A", (True, True)),
]
ALL = [
    (store, job, (first, second))
    for store in STORES
    for job in "AB"
    for first in (False, True)
    for second in (False, True)
]


class Violation(AssertionError):
    """An invariant does not hold in a state."""


def require(holds: bool, invariant: str, store: Store) -> None:
    if not holds:
        parts = sorted((part.run, part.shard, part.whose if part.made else "closed") for part in store.parts)
        raise Violation(f"{invariant}; runs {store.planned()}, parts {parts}")


def find_unfinished(store: Store) -> list[Run]:
    return [run for run in store.planned() if len(store.settled(run)) < len(run.rows)]


def check_store(store: Store, unfinished_runs: int = 1) -> None:
    """Check what must hold of the objects in the store at any moment, with so many runs that may be unfinished."""
    made, unfinished = store.made(), find_unfinished(store)
    require(len(made) == len(set(made)), "1: a row is in the index twice", store)
    names = [(part.run, part.shard) for part in store.parts]
    require(len(names) == len(set(names)), "2: a shard was both made and closed", store)
    if len(store.earlier) < 2:  # two unfinished runs are what an earlier release could leave
        require(len(unfinished) <= unfinished_runs, "3: two runs can commit", store)
        open_rows = {run.rows[s] for run in unfinished for s in range(len(run.rows)) if s not in store.settled(run)}
        require(not open_rows & set(made), "3: a row that is made can be committed once more", store)
    numbers = Counter((run.job, run.number) for run in store.planned())
    require(max(numbers.values(), default=1) == 1, "4: two runs have one name", store)


def check_processes(store: Store, processes: Iterable[Process]) -> None:
    """Check what the processes that have come to their end believe."""
    planners = [process for process in processes if isinstance(process, Planner)]
    for process in processes:
        if isinstance(process, Writer) and process.at == "end":
            is_ours = store.was_made_by(process.run, process.shard, process.name)
            require(process.won == is_ours, "5: a writer is wrong about who has committed", store)
    if not store.planned():
        require(not all(planner.refused for planner in planners), "6: planners have refused each other", store)


def check_progress(store: Store) -> None:
    """Check that a job that starts now, and runs alone, makes all its rows, unless it must be refused (7)."""
    for job, rows in JOBS.items():
        for supersede in (False, True):
            if supersede or all(run.job == job or run in store.notes for run in find_unfinished(store)):
                after = run_alone(store, Planner("late", job, supersede))
                require(set(rows) <= set(after.made()), f"7: job {job} is stuck", after)
                check_store(after)


def explore_all(
    store: Store, zombies: tuple[Writer, ...], job: str, supersede: tuple[bool, bool], mutation: str = ""
) -> set[Store]:
    """Check every state that two planners beside zombies can reach. Returns the states of the store."""
    stores: set[Store] = set()

    def check(store: Store, processes: frozenset[Process]) -> None:
        if store not in stores:
            stores.add(store)
            check_store(store)
        check_processes(store, processes)

    planners = [Planner("p", "B", supersede[0], mutation), Planner("q", job, supersede[1], mutation)]
    explore((store, frozenset([*(zombies if store.planned() else ()), *planners])), check)
    return stores


@pytest.mark.parametrize(("store", "job", "supersede"), FAST)
def test_no_interleaving_breaks_an_invariant(store: str, job: str, supersede: tuple[bool, bool]) -> None:
    for reached in explore_all(STORES[store], ZOMBIES[:1], job, supersede):
        check_progress(reached)


@pytest.mark.slow
@pytest.mark.parametrize(("store", "job", "supersede"), ALL)
def test_no_interleaving_with_two_zombies_breaks_one(store: str, job: str, supersede: tuple[bool, bool]) -> None:
    for reached in explore_all(STORES[store], ZOMBIES, job, supersede):
        check_progress(reached)


NEXT = Run.plan("B", 1, (3,), "next")
MADE = (Part(OLD, 0, "zombie/0", made=True), Part(OLD, 1, "old/1", made=True))
DAMAGED = {
    "one part is lost": Store(order=(OLD,), plans=frozenset({OLD}), parts=frozenset(MADE[1:])),
    "one part is damaged": Store(order=(OLD,), plans=frozenset({OLD}), parts=frozenset(MADE)),
    "one part is lost, and another run was planned": Store(
        order=(OLD, NEXT), plans=frozenset({OLD, NEXT}), parts=frozenset(MADE[1:])
    ),
    "a part of a closed run is lost": Store(
        order=(OLD, NEXT),
        plans=frozenset({OLD, NEXT}),
        notes=frozenset({OLD}),
        parts=frozenset({Part(OLD, 1, "old/1", made=True)}),
    ),
}


def explore_repair(start: Store, job: str, supersede: bool, mutation: str = "") -> set[Store]:
    """Check every state that two repairs reach beside a planner and a writer whose part is what they replace."""
    stores: set[Store] = set()

    def check(store: Store, processes: frozenset[Process]) -> None:
        if store not in stores:
            stores.add(store)
            check_store(store, max(1, len(find_unfinished(start))))
        check_processes(store, processes)
        part = store.find_part(OLD, 0)
        replaced = sum(process.won for process in processes if isinstance(process, Repairer))
        require(part is None or part.revision == replaced, "8: a replacement was lost", store)

    repairs = [Repairer(name, OLD, 0, mutation) for name in ("repair 1", "repair 2")]
    writer = Writer("zombie/0", OLD, 0)
    if start.find_part(OLD, 0) is not None:
        writer = writer._replace(at="read-back")  # it has committed, and its reply was lost
    explore((start, frozenset([*repairs, writer, Planner("p", job, supersede, mutation)])), check)
    return stores


@pytest.mark.parametrize("supersede", [False, True])
@pytest.mark.parametrize("job", "AB")
@pytest.mark.parametrize("store", DAMAGED)
def test_no_repair_breaks_an_invariant(store: str, job: str, supersede: bool) -> None:
    for reached in explore_repair(DAMAGED[store], job, supersede):
        if len(find_unfinished(reached)) <= 1:
            check_progress(reached)


@pytest.mark.parametrize(
    ("mutation", "invariant"),
    [
        ("replace whatever is there", "8: a replacement was lost"),
        ("a revision names who replaced the part", "5: a writer is wrong"),
    ],
)
def test_a_wrong_way_of_repairing_is_found(mutation: str, invariant: str) -> None:
    with pytest.raises(Violation, match=invariant):
        explore_repair(DAMAGED["one part is damaged"], "A", False, mutation)


@pytest.mark.parametrize(
    ("mutation", "store", "job", "supersede", "invariant"),
    [
        ("anti-join before closing", "unfinished", "A", (True, False), "[13]: "),
        ("a note alone closes a run", "unfinished", "A", (True, False), "[13]: "),
        ("take the next free number without another look", "empty", "A", (False, False), "[13]: "),
        ("take the next free number without another look", "empty", "B", (True, True), "[13]: "),
        ("an order entry without plan.json does not count", "half planned", "A", (False, False), "[13]: "),
        (
            "adopt without a look at other runs",
            "two of an earlier release",
            "A",
            (False, False),
            "1: a row is in the index twice",
        ),
        ("do not read back", "empty", "B", (False, False), "5: a writer is wrong"),
    ],
)
def test_a_wrong_order_of_the_steps_is_found(
    mutation: str, store: str, job: str, supersede: tuple[bool, bool], invariant: str
) -> None:
    with pytest.raises(Violation, match=invariant):
        explore_all(STORES[store], ZOMBIES[:1], job, supersede, mutation)
