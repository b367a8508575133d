"""The runs of a dataset: which were planned, which of their shards are settled, and which of them is the latest."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from musicgen.dataset import paths
from musicgen.dataset.folded_runs import read_folded_runs
from musicgen.dataset.run_keys import find_run_keys, group_parts
from musicgen.errors import StoreError
from musicgen.parallel import map_ordered
from musicgen.run_plan import PLAN_VERSION, Plan, PlanOutline, describe_later_version
from musicgen.storage import FileInfo, Store

_THREADS = 16


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """A run that was planned, and which of its shards are settled: have a part in the index, made or closed.

    `plan` is None if a later release planned it.
    """

    outline: PlanOutline
    plan: Plan | None
    settled: frozenset[int]
    closing: bool  # it is superseded: its shards are being closed, or have been
    has_manifest: bool = True  # no file of its normalized manifest is missing

    @property
    def run(self) -> str:
        """The run's name."""
        return self.outline.run

    @property
    def order(self) -> int:
        """Its number among all runs of the dataset; 0 if an earlier release planned it."""
        return self.outline.order

    @property
    def name_prefix(self) -> str:
        """The run's name without its number: runs that share it have the same rows, model and encoding."""
        return self.run.rpartition("-")[0]

    @property
    def number(self) -> int:
        """The number at the end of its name, among the runs that share its prefix."""
        return _number(self.run)

    @property
    def pending(self) -> list[int]:
        """The shards that are not settled."""
        return [shard for shard in range(len(self.outline.shard_rows)) if shard not in self.settled]

    @property
    def finished(self) -> bool:
        """Whether nothing more can come from it: every name under which a shard could commit is taken."""
        return len(self.settled) >= len(self.outline.shard_rows) and not self.pending


@dataclass
class RunListing:
    """What a listing of a dataset says about its runs.

    `index_parts` are the paths of all parts of the index. `last_order` is the number of the latest run. `unwritten` are
    path and content of its `plan.json`, if its planner has put the order entry and not yet that file. `with_rows` are
    the runs that have the keys of their manifest (`musicgen.dataset.manifest_rows`), `run_keys` the files of keys of
    finished runs, by run (`musicgen.dataset.run_keys`), `folded_file` the copies of many of these.
    """

    index_parts: list[str]
    runs: dict[str, PlannedRun] = field(default_factory=dict)
    last_order: int = 0
    unwritten: tuple[str, bytes] | None = None
    with_rows: set[str] = field(default_factory=set)
    run_keys: dict[str, FileInfo] = field(default_factory=dict)
    folded_file: FileInfo | None = None

    @property
    def latest(self) -> PlannedRun | None:
        """The run that was planned last; None if no run has a number."""
        return next((run for run in self.runs.values() if run.order and run.order == self.last_order), None)

    @property
    def unfinished(self) -> list[PlannedRun]:
        """The runs from which more may come, in their order."""
        return sorted((run for run in self.runs.values() if not run.finished), key=lambda run: (run.order, run.run))

    def runs_of(self, name_prefix: str) -> list[PlannedRun]:
        """Return the runs that share a prefix, in the order of their numbers."""
        own = [run for run in self.runs.values() if run.name_prefix == name_prefix]
        return sorted(own, key=lambda run: run.number)

    def next_number(self, name_prefix: str) -> int:
        """Return a number that no run of this prefix has, or has left parts under in the index."""
        names = {*self.runs, *_group_settled(self.index_parts)}
        return 1 + max((_number(name) for name in names if name.rpartition("-")[0] == name_prefix), default=0)

    def ranks(self) -> dict[str, int]:
        """Return a number for each run that grows from earlier runs to later ones.

        It is the number that the store gave. Runs of earlier releases have none; they come before all others, in the
        order in which their plans say that they were written.
        """
        earlier = sorted(
            (run for run in self.runs.values() if not run.order),
            key=lambda run: (run.plan.created_at if run.plan else "", run.number, run.run),
        )
        ranks = {run.run: position - len(earlier) for position, run in enumerate(earlier)}
        return ranks | {run.run: run.order for run in self.runs.values() if run.order}


def load_plan(store: Store, run: str) -> Plan:
    """Read the plan of a run.

    Raises `FileNotFoundError` if there is none, `StoreError` if it is damaged or of a later version.
    """
    path = paths.plan_file(run)
    outline, plan = _parse_plan(store, path, store.read(path))
    if plan is None:
        raise StoreError(describe_later_version(outline))
    return plan


def pending_shards(store: Store, plan: Plan) -> list[int]:
    """List the shards of a run that have no part in the index, by one listing of `index/<run>/`."""
    settled = _group_settled(info.path for info in store.list(paths.index_folder(plan.run))).get(plan.run, set())
    return [shard for shard in plan.shards if shard not in settled]


def list_runs(store: Store, known: Mapping[str, PlannedRun] | None = None) -> RunListing:
    """List the runs of a dataset, and read their plans but for those in `known`, since plans do not change.

    The order entries are listed first and the index last: so all that the runs up to `last_order` had committed when
    that one was planned is in `index_parts`. Raises `StoreError` for a damaged plan.
    """
    orders: set[int] = set()
    planned: dict[str, FileInfo] = {}
    closing: set[str] = set()
    manifest_files: set[str] = set()
    with_rows: set[str] = set()
    keys_files: dict[str, FileInfo] = {}
    folded_file: FileInfo | None = None
    for info in store.list(paths.RUNS):
        if (number := paths.parse_order_entry(info.path)) is not None:
            orders.add(number)
        elif run := paths.parse_plan(info.path):
            planned[run] = info
        elif run := paths.parse_superseded_note(info.path):
            closing.add(run)
        elif run := paths.parse_manifest_rows(info.path):
            with_rows.add(run)
        elif paths.parse_run_keys(info.path):
            keys_files[info.path] = info
        elif info.path == paths.FOLDED_RUNS:
            folded_file = info
        elif info.path.endswith(".parquet"):
            manifest_files.add(info.path)
    part_infos = [info for info in store.list(paths.INDEX) if info.path.endswith(".parquet")]
    run_keys = find_run_keys(group_parts(part_infos), keys_files)
    listing = RunListing([info.path for info in part_infos], with_rows=with_rows, run_keys=run_keys)
    listing.folded_file = folded_file
    folded = read_folded_runs(store, folded_file if planned.keys() - (known or {}).keys() else None)
    settled = _group_settled(listing.index_parts)

    def read_run(run: str) -> PlannedRun:
        if known and run in known:
            outline, plan = known[run].outline, known[run].plan
        else:
            file = planned[run]
            content = folded.find_plan(run, file) or store.read(file.path)
            outline, plan = _parse_plan(store, file.path, content)
        has_manifest = manifest_files.issuperset(outline.manifest_files)
        return PlannedRun(outline, plan, frozenset(settled.get(run, ())), run in closing, has_manifest)

    listing.runs = {run.run: run for run in map_ordered(read_run, planned, threads=_THREADS)}
    known_orders = {run.order for run in listing.runs.values()}
    listing.last_order = max(orders or known_orders, default=0)
    if orders and listing.last_order not in known_orders:
        _add_unwritten(store, listing, manifest_files)
    return listing


def _add_unwritten(store: Store, listing: RunListing, manifest_files: set[str]) -> None:
    """Add the latest run, whose planner has put the order entry and not, or not yet, `plan.json`.

    A run whose manifest is gone too was removed by hand; only its number stays taken.
    """
    path = paths.order_entry(listing.last_order)
    content = store.read(path)
    outline, plan = _parse_plan(store, path, content)
    if manifest_files.issuperset(outline.manifest_files):
        listing.unwritten = paths.plan_file(outline.run), content
        listing.runs[outline.run] = PlannedRun(outline, plan, frozenset(), closing=False)


def _group_settled(index_parts: Iterable[str]) -> dict[str, set[int]]:
    """Return the shards that have a part in the index, by run."""
    settled: dict[str, set[int]] = {}
    for path in index_parts:
        if parsed := paths.parse_index_part(path):
            settled.setdefault(parsed[0], set()).add(parsed[1])
    return settled


def _number(run: str) -> int:
    number = run.rpartition("-")[2]
    return int(number) if number.isdecimal() else 0


def _parse_plan(store: Store, path: str, content: bytes) -> tuple[PlanOutline, Plan | None]:
    """Parse a plan; only its outline if it is of a later version. Raises `StoreError` if it is damaged."""
    try:
        outline = PlanOutline.from_json(content)
        return outline, Plan.from_json(content) if outline.version <= PLAN_VERSION else None
    except StoreError as error:
        raise StoreError(
            f"{store.join(path)}: {error}; restore this file ({paths.RUNS}/order/ holds a copy of every plan since "
            "version 2), because without it nobody can tell whether the run is finished"
        ) from None
