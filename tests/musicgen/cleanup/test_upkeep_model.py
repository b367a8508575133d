"""Every interleaving of removing, undoing, `gc` and its release beside a run that starts at any step (upkeep_model.py).

docs/commit.md states the invariants; what is checked here has their letters.
"""

from collections.abc import Iterator

import pytest

from tests.musicgen.cleanup.upkeep_model import (
    JOB,
    Collector,
    Part,
    Planner,
    Process,
    Releaser,
    Remover,
    Store,
    Writer,
)

MADE = frozenset({Part(1, 1, "same"), Part(1, 2, "same")})
AUDIO = frozenset({(1, "same"), (2, "same"), (1, "other"), (3, "same")})  # the last two of attempts that were killed
STORES = {
    "grown": Store(plans=((1, 2),), parts=MADE, audio=AUDIO),  # row 3 is new
    "unfinished": Store(plans=((1, 2, 3),), parts=MADE, audio=AUDIO),
}
ZOMBIE = Writer("zombie", 1, 1, "late")  # an attempt at a shard that another has committed


class Violation(AssertionError):
    """An invariant does not hold in a state."""


def require(holds: bool, invariant: str, store: Store) -> None:
    if not holds:
        raise Violation(f"{invariant}; {store}")


def check_store(store: Store) -> None:
    """Check what must hold at any moment."""
    for part in store.parts:
        require(not part.has_row or (part.row, part.bits) in store.audio, "a: a row has lost its audio", store)
    made = [part.row for part in store.parts]
    require(len(made) == len(set(made)), "b: a row was made again", store)
    for part in store.parts:
        is_deleted = store.last_entry(part.row).state == "deleting"
        require(part.has_row or is_deleted, "c: a clip was deleted, and nothing says so", store)
    require(not store.late, "d: a run commits while gc deletes", store)


def run_alone(store: Store, *processes: Process) -> Store:
    """Let these processes run to their ends, one after the other, while all others stand still."""
    todo = list(processes)
    for _ in range(200):
        if not todo:
            return store
        store, todo[:1] = next(todo[0].steps(store), (store, []))
    raise AssertionError("it does not come to an end")


def check_progress(store: Store) -> None:
    """Check that a gc after a release, and then a job, leave nothing of what is removed, and make all else (e, f)."""
    after = run_alone(store, Releaser(), Planner(), Collector(), Planner())
    check_store(after)
    hidden = after.hidden()
    require(not {row for row, _ in after.audio} & hidden, "e: audio of a removed clip is left", after)
    require(not after.rows() & hidden, "e: a row of a removed clip is left", after)
    require(after.rows() == set(JOB) - hidden, "f: a row is not made", after)


def explore(store: Store, processes: list[Process]) -> set[Store]:
    """Visit every state that can be reached, and check its store. Returns the stores."""
    start = (store, frozenset(processes))
    seen, waiting, stores = {start}, [start], set()
    while waiting:
        store, running = waiting.pop()
        if store not in stores:
            stores.add(store)
            check_store(store)
        for process in running:
            for after, replacement in process.steps(store):
                state = (after, (running - {process}).union(p for p in replacement if p.at != "end"))
                if state not in seen:
                    seen.add(state)
                    waiting.append(state)
    return stores


def all_processes(mutation: str = "") -> Iterator[Process]:
    yield from (Planner(mutation), Remover(1), Remover(1, undo=True), Collector(mutation), Releaser(), ZOMBIE)


@pytest.mark.parametrize("store", STORES)
def test_no_interleaving_breaks_an_invariant(store: str) -> None:
    for reached in explore(STORES[store], list(all_processes())):
        check_progress(reached)


@pytest.mark.slow
@pytest.mark.parametrize("store", STORES)
def test_nor_with_a_second_gc(store: str) -> None:
    for reached in explore(STORES[store], [*all_processes(), Collector("", "second gc")]):
        check_progress(reached)


@pytest.mark.parametrize(
    ("mutation", "invariant"),
    [
        ("removed clips before the index", "b: "),
        ("no look for a gate", "d: "),
        ("a look before the gate", "d: "),
        ("delete what is removed without a decision", "c: "),
        ("audio before the row", "a: "),
        ("audio that a later run can write", "a: "),
    ],
)
def test_a_wrong_order_of_the_steps_is_found(mutation: str, invariant: str) -> None:
    with pytest.raises(Violation, match=invariant):
        explore(STORES["grown"], list(all_processes(mutation)))
