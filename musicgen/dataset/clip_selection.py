"""Selects clips of a dataset to look at: the newest run first, and those that a condition holds for."""

from collections.abc import Iterator, Set
from dataclasses import dataclass, field

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from musicgen.dataset import paths
from musicgen.dataset.clip_condition import ClipCondition
from musicgen.dataset.reader import Dataset
from musicgen.dataset.schema import index_columns
from musicgen.dataset.visible_rows import select_visible
from musicgen.errors import StoreError
from musicgen.manifest.json_columns import to_json_table
from musicgen.run_plan import PlanOutline
from musicgen.storage.parquet_reader import ParquetReader
from musicgen.value_types import TableRow

_ROWS_AT_ONCE = 16  # with `layout: parquet` they hold the audio


@dataclass(frozen=True, slots=True)
class SelectedClip:
    """A row of the index, with `audio` and without codes, and its carried values as JSON writes them."""

    row: TableRow
    carried: TableRow = field(default_factory=dict)


def select_clips(dataset: Dataset, count: int, where: str | None = None) -> Iterator[SelectedClip]:
    """Yield at most `count` clips, those of the newest run first, reading no further than needed.

    `where` is an SQL condition on the index's columns, as DuckDB writes it: `bpm > 120 and prompt ilike '%piano%'`.
    Raises `JobError` if it is none.
    """
    with duckdb.connect(config={"enable_external_access": False}) as database:
        condition = None if where is None else ClipCondition(database, where)
        tombstones = dataset.tombstones()
        for run in _list_newest_first(dataset):
            for part_path in Dataset(dataset.store, dataset.info, run).parts():
                hidden = tombstones.hidden_in(part_path)
                with dataset.store.open(part_path) as file:
                    for clip in _select_of_part(ParquetReader(file), dataset, count, condition, hidden):
                        yield clip
                        count -= 1
                        if not count:
                            return


def _list_newest_first(dataset: Dataset) -> list[str]:
    return sorted(dataset.runs(), key=lambda run: (_read_time(dataset, run), run), reverse=True)


def _read_time(dataset: Dataset, run: str) -> str:
    """Read when a run was planned; empty if its plan is gone or damaged."""
    try:
        return PlanOutline.from_json(dataset.store.read(paths.plan_file(run))).created_at
    except (FileNotFoundError, StoreError):
        return ""


def _select_of_part(
    part: ParquetReader, dataset: Dataset, count: int, condition: ClipCondition | None, hidden: Set[str]
) -> Iterator[SelectedClip]:
    own = {*index_columns(), "audio"}
    names = [name for name in part.schema_arrow.names if name in own or name in dataset.info.carried]
    carried = [name for name in names if name not in own]
    for row_group in range(part.num_row_groups):
        is_met = None
        if condition is not None:
            is_met = condition.check_row_group(part, row_group, dataset)
        if hidden:
            visible = select_visible(part.read_row_group(row_group, ["key"]).column("key").combine_chunks(), hidden)
            is_met = visible if is_met is None else pc.and_(is_met, visible)
        if is_met is not None and not is_met.true_count:
            continue
        start = 0
        for batch in part.iter_batches(min(_ROWS_AT_ONCE, count), row_groups=[row_group], columns=names):
            table = pa.Table.from_batches([batch])
            if is_met is not None:
                table = table.filter(is_met.slice(start, len(batch)))
            start += len(batch)
            if not table.num_rows:
                continue
            rows = table.select([name for name in names if name in own]).to_pylist()
            texts = to_json_table(table.select(carried)).to_pylist() or [{}] * len(rows)
            yield from map(SelectedClip, rows, texts)
