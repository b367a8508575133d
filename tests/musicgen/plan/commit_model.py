"""A model of planning, closing and committing, small enough to try every interleaving of its processes.

A state is the objects in the store and where each process stands. A step is one request to the store, with what its
process decides on the reply; each names the function that it stands for. A process that is killed, or stopped for any
time, is one that takes no more steps, so each state is also one in which any process may be dead. A reply that is lost
is a step of its own: the write happens, and the process has to read it back.

Left out is what no interleaving could change: audio and failures, which come before their part and under names of
their attempt, and the bytes of parts and plans, which never change.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

JOBS = {"A": (1, 2), "B": (2, 3)}  # the rows of each job's manifest


class Run(str):
    """A planned run; each shard is one row. `planner` tells apart what two planners of one job have planned.

    It is a string because millions of states are hashed, and a string's hash is kept.
    """

    job: str
    number: int
    rows: tuple[int, ...]

    @classmethod
    def plan(cls, job: str, number: int, rows: tuple[int, ...], planner: str) -> "Run":
        """Make a run."""
        run = cls(f"{job}-{number}{rows} by {planner}")
        run.job, run.number, run.rows = job, number, rows
        return run


class Part(NamedTuple):
    """A part of the index: of which attempt it is, or, if it was not made, who closed it."""

    run: Run
    shard: int
    whose: str
    made: bool
    revision: int = 0  # how often it was replaced
    maker: str = ""  # who has made it, if its footer tells another


class Store(NamedTuple):
    """The objects that matter."""

    earlier: tuple[Run, ...] = ()  # runs of earlier releases: a plan.json, and no entry in the order
    order: tuple[Run, ...] = ()  # runs/order/
    plans: frozenset[Run] = frozenset()  # plan.json of the runs in the order
    notes: frozenset[Run] = frozenset()  # superseded.json
    parts: frozenset[Part] = frozenset()

    def settled(self, run: Run) -> frozenset[int]:
        """The shards of a run that have a part."""
        return frozenset(part.shard for part in self.parts if part.run == run)

    def planned(self) -> tuple[Run, ...]:
        """All runs, from the moment at which they count."""
        return self.earlier + self.order

    def made(self) -> list[int]:
        """The rows in the index, each as often as it is there."""
        return [part.run.rows[part.shard] for part in self.parts if part.made]

    def find_part(self, run: Run, shard: int) -> Part | None:
        """The part of a shard."""
        return next((part for part in self.parts if (part.run, part.shard) == (run, shard)), None)

    def is_made_by(self, run: Run, shard: int, name: str) -> bool:
        """Whether the part's footer names this attempt."""
        part = self.find_part(run, shard)
        return part is not None and part.made and part.whose == name

    def was_made_by(self, run: Run, shard: int, name: str) -> bool:
        """Whether this attempt has made the part, whatever its footer says."""
        part = self.find_part(run, shard)
        return part is not None and part.made and (part.maker or part.whose) == name

    def put_part(self, part: Part) -> tuple["Store", bool]:
        """`Store.put_if_absent` of an index part."""
        if part.shard in self.settled(part.run):
            return self, False
        return self._replace(parts=self.parts | {part}), True


class Writer(NamedTuple):
    """An attempt at one shard: `ShardWriter.commit`, which may come at any time. One that waits long is a zombie.

    `Generator._find_commit`, which comes before, only saves work.
    """

    name: str
    run: Run
    shard: int
    mutation: str = ""
    at: str = "commit"
    won: bool = False

    def steps(self, store: Store) -> Iterator["Step"]:
        """Yield what the next request can lead to: the store after it, and what becomes of this process."""
        if self.at == "commit":  # Store.commit_if_absent
            after, won = store.put_part(Part(self.run, self.shard, self.name, made=True))
            yield after, [self._replace(at="end", won=won)]
            yield after, [self._replace(at="read-back")]  # the reply is lost, or the client tried twice and it "exists"
        elif self.mutation == "do not read back":
            yield store, [self._replace(at="end", won=False)]
        elif self.at == "read-back":  # read_footer(...).attempt == self.attempt
            yield store, [self._replace(at="end", won=store.is_made_by(self.run, self.shard, self.name))]


class Repairer(NamedTuple):
    """`ShardRepair.mend` of one shard, whose part is lost or damaged: it may find either, whatever was verified."""

    name: str
    run: Run
    shard: int
    mutation: str = ""
    at: str = "look-for-note"
    read: Part | None = None
    won: bool = False

    def steps(self, store: Store) -> Iterator["Step"]:
        """Yield what the next request can lead to: the store after it, and what becomes of this process."""
        if self.at == "look-for-note":  # a part that a closed run has lost is closed again
            yield store, [self._replace(at="close" if self.run in store.notes else "read")]
        elif self.at == "close":  # plan.closing.close_run
            after, _ = store.put_part(Part(self.run, self.shard, self.name, made=False))
            yield after, [self._replace(at="end")]
        elif self.at == "read":  # salvage_part: the ETag
            part = store.find_part(self.run, self.shard)
            yield store, [self._replace(at="put" if part is None else "replace", read=part)]
        elif self.at == "put":  # PartRewriter._put_part: what is lost is committed as by any attempt
            after, _ = store.put_part(Part(self.run, self.shard, self.name, made=True))
            yield after, [self._replace(at="end")]
        elif self.at == "replace":  # Store.replace_if_match; a lost reply is settled by what is there
            yield self._put_revision(store)

    def _put_revision(self, store: Store) -> "Step":
        assert self.read is not None
        current = self.read if self.read in store.parts else None
        if self.mutation == "replace whatever is there":
            current = store.find_part(self.run, self.shard)
        if current is None:
            return store, [self._replace(at="end")]
        revision = self.read._replace(revision=self.read.revision + 1)
        if self.mutation == "a revision names who replaced the part":
            revision = revision._replace(whose=self.name, maker=self.read.whose)
        return store._replace(parts=store.parts - {current} | {revision}), [self._replace(at="end", won=True)]


class Planner(NamedTuple):
    """`_Planner.plan` and then a driver. `mutation` is a fault that a test puts into it."""

    name: str
    job: str
    supersede: bool
    mutation: str = ""
    at: str = "list-order"
    last_order: int = 0
    runs: tuple[Run, ...] = ()  # as listed, like the notes
    notes: frozenset[Run] = frozenset()
    missing: tuple[int, ...] = ()
    to_close: tuple[tuple[Run, frozenset[int]], ...] = ()  # with the shards that are not closed yet
    run: Run | None = None  # planned or adopted
    refused: bool = False

    def steps(self, store: Store) -> Iterator["Step"]:
        """Yield what the next request can lead to: the store after it, and what becomes of this process."""
        if self.at == "list-order":  # list_runs: the listing of runs/ begins with the order entries ...
            yield store, [self._replace(at="list-plans", last_order=len(store.order))]
        elif self.at == "list-plans":  # ... and goes on with plans and notes
            yield store, [self._list_plans(store)]
        elif self.at == "write-unwritten":  # _Planner._write_unwritten_plan
            yield store._replace(plans=store.plans | {self.runs[-1]}), [self._replace(at="list-index")]
        elif self.at == "list-index":  # list_runs lists index/ last; History reads the keys of what is listed
            yield store, [self._plan_once(store)]
        elif self.at == "note":  # close_run: the note first ...
            (run, _), *others = self.to_close
            after = store._replace(notes=store.notes | {run})
            if self.mutation == "a note alone closes a run":
                yield after, [self._close(others)]
            else:
                yield after, [self._replace(at="close")]
        elif self.at == "close":  # ... then the shards, on many threads; whose part is there does not matter
            (run, unclosed), *others = self.to_close
            for shard in unclosed:
                after, _ = store.put_part(Part(run, shard, self.name, made=False))
                rest = [(run, unclosed - {shard}), *others]
                yield after, [self._replace(to_close=tuple(rest)) if rest[0][1] else self._close(others)]
        elif self.at == "put-order":  # run_order.put_plan
            yield from self._put_order(store)
        elif self.at == "read-back":  # Store.commit_if_absent compares the entry with what it wrote
            mine = store.order[self.last_order] == self.run
            yield store, [self._replace(at="put-plan") if mine else self._look_again()]
        elif self.at == "put-plan":  # run_order.write_plan_file
            assert self.run is not None
            yield store._replace(plans=store.plans | {self.run}), [self._replace(at="drive")]
        elif self.at == "drive":  # pending_shards, and an attempt at each
            assert self.run is not None
            pending = set(range(len(self.run.rows))) - store.settled(self.run)
            writers = [Writer(f"{self.name}/{shard}", self.run, shard, self.mutation) for shard in sorted(pending)]
            yield store, [Planner(self.name, self.job, self.supersede, at="end"), *writers]

    def _list_plans(self, store: Store) -> "Planner":
        runs = (*store.earlier, *(run for run in store.order if run in store.plans))
        latest = store.order[self.last_order - 1 : self.last_order]
        unwritten = tuple(run for run in latest if run not in runs)  # _add_unwritten
        if self.mutation == "an order entry without plan.json does not count":
            unwritten = ()
        at = "write-unwritten" if unwritten else "list-index"
        return self._replace(at=at, runs=runs + unwritten, notes=store.notes)

    def _plan_once(self, store: Store) -> "Planner":
        made = {part.run.rows[part.shard] for part in store.parts if part.made}
        missing = tuple(row for row in JOBS[self.job] if row not in made)
        if self.mutation == "anti-join before closing":
            missing = self.missing or missing
        pending = {run: frozenset(range(len(run.rows))) - store.settled(run) for run in self.runs}
        unfinished = [run for run in self.runs if pending[run]]
        if self.mutation == "a note alone closes a run":
            unfinished = [run for run in unfinished if run not in self.notes]
        half_closed = [run for run in unfinished if run in self.notes]
        whole = [run for run in unfinished if run not in half_closed]
        end = Planner(self.name, self.job, self.supersede, self.mutation, at="end")
        if (adoptable := self._find_adoptable(store, unfinished)) is not None:
            if adoptable in store.earlier and any(adoptable.rows[s] in made for s in pending[adoptable]):
                return self._close([(adoptable, pending[adoptable])])  # _Planner._is_outdated
            return end._replace(at="drive", run=adoptable)
        if not missing:
            return end
        if half_closed and self._find_adoptable(store, whole):  # run_order.runs_to_close
            return self._close([(run, pending[run]) for run in half_closed])
        if any(run.job != self.job for run in whole) and not self.supersede:
            return end._replace(refused=True)
        if unfinished:
            return self._replace(missing=missing)._close([(run, pending[run]) for run in unfinished])
        number = 1 + max((run.number for run in self.runs if run.job == self.job), default=0)
        run = Run.plan(self.job, number, missing, self.name)
        return end._replace(at="put-order", last_order=self.last_order, run=run)

    def _find_adoptable(self, store: Store, unfinished: list[Run]) -> Run | None:  # run_order.find_adoptable
        own = [run for run in unfinished if run.job == self.job]
        if self.mutation == "adopt without a look at other runs":
            return own[-1] if own else None
        if len(unfinished) != 1 or not own or own[0] in self.notes:
            return None
        latest = store.order[self.last_order - 1] if self.last_order else own[0]
        return own[0] if own[0] == latest else None

    def _put_order(self, store: Store) -> Iterator["Step"]:
        assert self.run is not None
        if self.mutation == "take the next free number without another look":
            yield store._replace(order=(*store.order, self.run)), [self._replace(at="put-plan")]
        elif len(store.order) > self.last_order:
            yield store, [self._look_again()]
        else:
            after = store._replace(order=(*store.order, self.run))
            yield after, [self._replace(at="put-plan")]
            yield after, [self._replace(at="read-back")]

    def _close(self, runs: Sequence[tuple[Run, frozenset[int]]]) -> "Planner":
        if not runs:
            return self._look_again()
        return self._replace(at="note", last_order=0, runs=(), notes=frozenset(), to_close=tuple(runs))

    def _look_again(self) -> "Planner":
        missing = self.missing if self.mutation else ()
        return Planner(self.name, self.job, self.supersede, self.mutation, missing=missing)


Process = Writer | Repairer | Planner
Step = tuple[Store, list[Process]]
State = tuple[Store, frozenset[Process]]


def explore(start: State, check: Callable[[Store, frozenset[Process]], None]) -> int:
    """Visit every state that can be reached, and check it. Returns their number.

    A writer that has come to its end is left out of later states.
    """
    seen, waiting = {start}, [start]
    while waiting:
        store, processes = waiting.pop()
        check(store, processes)
        running = frozenset(process for process in processes if not isinstance(process, Writer) or process.at != "end")
        for process in running:
            for after, replacement in process.steps(store):
                state = (after, (running - {process}).union(replacement))
                if state not in seen:
                    seen.add(state)
                    waiting.append(state)
    return len(seen)


def run_alone(store: Store, *processes: Process) -> Store:
    """Let these processes run to their ends, one after the other, while all others stand still."""
    todo = list(processes)
    for _ in range(200):
        if not todo:
            return store
        store, todo[:1] = next(todo[0].steps(store), (store, []))
    raise AssertionError("it does not come to an end")
