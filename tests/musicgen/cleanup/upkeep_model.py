"""A model of removing, undoing and `gc` beside a run, small enough to try every interleaving (docs/commit.md).

As in tests/musicgen/plan/commit_model.py a step is one request, a killed process is one that takes no more steps, and
each step names the function that it stands for. A run's other steps are in that model; here a planner has what matters
to `gc`: what it lists in which order, its plan, and its look for a gate. Every shard is one row. Audio is named by row
and bits: two attempts with the same bits write the same name.
"""

from collections.abc import Iterator
from typing import NamedTuple

JOB = (1, 2, 3)  # the rows of the manifest


class Part(NamedTuple):
    """A part of the index; once its clip is deleted it has no row."""

    run: int
    row: int
    bits: str
    has_row: bool = True


class Entry(NamedTuple):
    """An entry of what was decided about a clip: `removed`, `undone` or `deleting`."""

    row: int
    number: int
    state: str


class Store(NamedTuple):
    """The objects that matter. `looked` and `late` are not objects: they record what must not happen."""

    plans: tuple[tuple[int, ...], ...] = ()  # entry n of the order is the plan of run n: its rows
    parts: frozenset[Part] = frozenset()
    audio: frozenset[tuple[int, str]] = frozenset()
    entries: frozenset[Entry] = frozenset()
    deleted: frozenset[int] = frozenset()  # marks of deletion
    gates: int = 0
    released: frozenset[int] = frozenset()
    looked: frozenset[int] = frozenset()  # gates behind which gc has seen that no run is unfinished
    late: bool = False  # a run has committed behind such a gate

    def gate_stands(self) -> bool:  # find_gate
        return self.gates > 0 and self.gates not in self.released

    def last_entry(self, row: int) -> Entry:
        own = [entry for entry in self.entries if entry.row == row]
        return max(own, key=lambda entry: entry.number, default=Entry(row, 0, "undone"))

    def hidden(self) -> frozenset[int]:
        """The rows that `read_tombstones` hides."""
        return frozenset(entry.row for entry in self.entries if self.last_entry(entry.row).state != "undone")

    def rows(self) -> frozenset[int]:
        return frozenset(part.row for part in self.parts if part.has_row)

    def unfinished(self) -> bool:
        """Whether a run has a pending shard."""
        settled = {(part.run, part.row) for part in self.parts}
        return any((run, row) not in settled for run, rows in enumerate(self.plans, 1) for row in rows)

    def put_entry(self, entry: Entry) -> tuple["Store", bool]:
        """`tombstones.put_entry`: put if absent."""
        if self.last_entry(entry.row).number >= entry.number:
            return self, False
        return self._replace(entries=self.entries | {entry}), True


class Writer(NamedTuple):
    """An attempt at a shard: the audio, then the part if it is absent. One that waits long is a zombie."""

    name: str
    run: int
    row: int
    bits: str
    at: str = "audio"

    def steps(self, store: Store) -> Iterator["Step"]:
        """Yield what the next request can lead to."""
        if self.at == "audio":  # Files.add
            yield store._replace(audio=store.audio | {(self.row, self.bits)}), [self._replace(at="commit")]
        elif self.at == "commit":  # ShardWriter.commit
            if any((part.run, part.row) == (self.run, self.row) for part in store.parts):
                yield store, [self._replace(at="end")]
            else:
                late = store.late or (store.gate_stands() and store.gates in store.looked)
                parts = store.parts | {Part(self.run, self.row, self.bits)}
                yield store._replace(parts=parts, late=late), [self._replace(at="end")]


class Planner(NamedTuple):
    """`_Planner.plan` and then a driver. `mutation` is a fault that a test puts into it."""

    mutation: str = ""
    at: str = "list-order"
    last: int = 0
    made: frozenset[int] = frozenset()
    hidden: frozenset[int] = frozenset()
    run: int = 0

    def steps(self, store: Store) -> Iterator["Step"]:
        """Yield what the next request can lead to."""
        if self.at == "list-order":  # list_runs
            first = "list-removed" if self.mutation == "removed clips before the index" else "list-index"
            yield store, [self._replace(at=first, last=len(store.plans))]
        elif self.at == "list-index":  # History.refresh
            after = "plan" if self.mutation == "removed clips before the index" else "list-removed"
            yield store, [self._replace(at=after, made=store.rows())]
        elif self.at == "list-removed":  # History._write_removed
            after = "list-index" if self.mutation == "removed clips before the index" else "plan"
            yield store, [self._replace(at=after, hidden=store.hidden())]
        elif self.at == "plan":
            yield from self._plan(store)
        elif self.at == "look-gate":  # refuse_gate
            yield store, [self._replace(at="end" if store.gate_stands() else "drive")]
        elif self.at == "drive":  # pending_shards, and an attempt at each
            settled = {part.row for part in store.parts if part.run == self.run}
            pending = [row for row in store.plans[self.run - 1] if row not in settled]
            writers = [Writer(f"driver/{row}", self.run, row, "same") for row in pending]
            yield store, [self._replace(at="end"), *writers]

    def _plan(self, store: Store) -> Iterator["Step"]:
        """Adopt the unfinished run, find nothing to do, or put the next plan if it is absent."""
        settled = {(part.run, part.row) for part in store.parts}
        adoptable = [r for r, rows in enumerate(store.plans, 1) if any((r, row) not in settled for row in rows)]
        looks = "drive" if self.mutation == "no look for a gate" else "look-gate"
        missing = tuple(row for row in JOB if row not in self.made | self.hidden)
        if adoptable:
            yield store, [self._replace(at=looks, run=adoptable[0])]
        elif not missing:
            yield store, [self._replace(at="end")]
        elif len(store.plans) > self.last:  # another was first
            yield store, [Planner(self.mutation)]
        else:
            yield store._replace(plans=(*store.plans, missing)), [self._replace(at=looks, run=self.last + 1)]


class Remover(NamedTuple):
    """`musicgen remove` of a row, or with `undo` of its removal."""

    row: int
    undo: bool = False
    at: str = "look"
    last: int = 0

    def steps(self, store: Store) -> Iterator["Step"]:
        """Yield what the next request can lead to."""
        if self.at == "look":  # _decide
            last = store.last_entry(self.row)
            is_due = last.state == "removed" if self.undo else last.state == "undone" and self.row in store.rows()
            yield store, [self._replace(at="put" if is_due else "end", last=last.number)]
        elif self.at == "put":
            state = "undone" if self.undo else "removed"
            after, won = store.put_entry(Entry(self.row, self.last + 1, state))
            yield after, [self._replace(at="end" if won else "look")]


class Releaser(NamedTuple):
    """`musicgen gc --release`, whether the gc was killed or not."""

    at: str = "release"

    def steps(self, store: Store) -> Iterator["Step"]:
        """Yield what the next request can lead to."""
        if self.at == "release":
            yield store._replace(released=store.released | {store.gates}), [self._replace(at="end")]


class Collector(NamedTuple):
    """`collect_garbage`."""

    mutation: str = ""
    name: str = "gc"
    at: str = "gate"
    gate: int = 0
    claims: tuple[Entry, ...] = ()  # entries to put
    clips: tuple[int, ...] = ()  # rows to delete
    names: frozenset[tuple[int, str]] = frozenset()  # what the index names
    leftovers: tuple[tuple[int, str], ...] = ()

    def steps(self, store: Store) -> Iterator["Step"]:
        """Yield what the next request can lead to."""
        if self.at == "gate":
            yield from self._put_gate(store)
        elif self.at == "look":  # list_runs, _refuse_unfinished
            looked = store._replace(looked=store.looked | {self.gate})
            yield (store, [self._release()]) if store.unfinished() else (looked, [self._replace(at="list-removed")])
        elif self.at == "list-removed":  # _claim_clips
            last = [store.last_entry(row) for row in sorted(store.hidden() - store.deleted)]
            claims = tuple(entry for entry in last if entry.state == "removed")
            clips = tuple(entry.row for entry in last if entry.state == "deleting")
            yield store, [self._replace(at="claim", claims=claims, clips=clips)]
        elif self.at == "claim" and self.claims:
            last, *others = self.claims
            after, won = store.put_entry(Entry(last.row, last.number + 1, "deleting"))
            if self.mutation == "delete what is removed without a decision":
                after, won = store, True
            yield after, [self._replace(claims=tuple(others), clips=(*self.clips, *([last.row] if won else [])))]
        elif self.at == "claim":
            first = "list-audio" if self.mutation == "audio before the row" else "rows"
            yield store, [self._replace(at=first)]
        elif self.at == "rows":  # delete_rows: one replacement, on condition
            gone = frozenset(part for part in store.parts if part.row in self.clips)
            parts = (store.parts - gone) | {part._replace(has_row=False) for part in gone}
            after = "mark" if self.mutation == "audio before the row" else "list-index"
            yield store._replace(parts=parts), [self._replace(at=after)]
        elif self.at == "list-index":  # read_named_audio
            names = frozenset((part.row, part.bits) for part in store.parts if part.has_row)
            yield store, [self._replace(at="list-audio", names=names)]
        elif self.at == "list-audio":  # _Finder.look_at_audio
            yield store, [self._replace(at="audio", leftovers=self._find_leftovers(store))]
        elif self.at == "audio" and self.leftovers:
            path, *others = self.leftovers
            yield store._replace(audio=store.audio - {path}), [self._replace(leftovers=tuple(others))]
        elif self.at == "audio":
            yield store, [self._replace(at="rows" if self.mutation == "audio before the row" else "mark")]
        elif self.at == "mark":  # mark_deleted
            yield store._replace(deleted=store.deleted | set(self.clips)), [self._release()]
        elif self.at == "release":
            yield store._replace(released=store.released | {self.gate}), [self._replace(at="end")]

    def _put_gate(self, store: Store) -> Iterator["Step"]:
        gate, blind = store.gates + 1, self.mutation == "a look before the gate"
        if store.gate_stands() or (blind and self.gate == 0 and store.unfinished()):
            yield store, [self._replace(at="end")]
            return
        if blind and self.gate == 0:
            yield store, [self._replace(gate=gate)]  # it has looked; the gate comes in a step of its own
            return
        after = store._replace(gates=gate, looked=store.looked | ({gate} if blind else set()))
        yield after, [self._replace(at="list-removed" if blind else "look", gate=gate)]

    def _release(self) -> "Collector":
        return Collector(self.mutation, self.name, at="release", gate=self.gate)

    def _find_leftovers(self, store: Store) -> tuple[tuple[int, str], ...]:
        if self.mutation == "audio before the row":
            return tuple(sorted(path for path in store.audio if path[0] in self.clips))
        made = {row for row, _ in self.names}
        gone = {row for row in store.hidden() if store.last_entry(row).state == "deleting"}
        unnamed = sorted(store.audio - self.names)
        if self.mutation == "audio that a later run can write":
            return tuple(unnamed)
        return tuple(path for path in unnamed if path[0] in made | gone)


Process = Writer | Planner | Remover | Releaser | Collector
Step = tuple[Store, list[Process]]
