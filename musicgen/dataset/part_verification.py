"""Checks an index part: its bytes, schema and footer, the failures file and the tar that the footer names."""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from musicgen.dataset import paths
from musicgen.dataset.index_part import Footer, parse_footer
from musicgen.dataset.info import DatasetInfo
from musicgen.dataset.reader import Dataset
from musicgen.dataset.schema import CODES, FAILURES, SCHEMA_VERSION, index_schema
from musicgen.dataset.tombstones import Tombstones
from musicgen.dataset.verification_report import Fault
from musicgen.dataset.whole_file import describe_parquet_damage, open_whole
from musicgen.storage.parquet_reader import ParquetReader
from musicgen.storage.patience import SHORT_PATIENCE_S, wait_for_store


def check_part(path: str, file: BinaryIO, reader: ParquetReader, info: DatasetInfo, deep: bool) -> Iterator[Fault]:
    """Yield the faults of an index part, but for those of its rows. Raises `ValueError` if it has no footer."""
    if deep and (damage := describe_parquet_damage(file, info.has_own_checksums)):
        yield Fault("index", path, damage, path)
    if (difference := describe_schema_difference(reader.schema_arrow, info)) is not None:
        yield Fault("index", path, difference, path)
    footer = parse_footer(reader.schema_arrow.metadata, path)
    rows = reader.metadata.num_rows
    if (footer.run, footer.shard) != paths.parse_index_part(path):
        yield Fault("index", path, f"it is the part of run {footer.run}, shard {footer.shard}", path)
    if footer.closed is not None:
        if rows or footer.made or footer.failed:
            yield Fault("index", path, f"it has rows, but its footer says that {footer.closed} closed it", path)
    elif footer.made != rows or footer.made + footer.failed + footer.removed != footer.rows:
        counts = f"it has {rows} rows; its footer says {footer.made} of {footer.rows}, {footer.failed} failed"
        yield Fault("index", path, counts, path)


def describe_schema_difference(schema: pa.Schema, info: DatasetInfo) -> str | None:
    """Say in which way the columns of an index part are not those of its dataset; None if they are."""
    is_known = info.schema_version <= SCHEMA_VERSION  # else it has columns that this release does not know
    expected = index_schema(info.layout, None, info.codes and is_known, info.schema_version)
    if schema.names[: len(expected)] != expected.names:
        return "its columns are not those of the index"
    for field in expected:
        if field.name != CODES.name and schema.field(field.name).type != field.type:
            return f"its column {field.name} is {schema.field(field.name).type}, not {field.type}"
    if not is_known:
        return None
    for name, type_name in info.carried.items():
        if name not in schema.names:
            if info.schema_version > 1:  # a later run may have added it
                continue
            return f"it lacks the carried column {name}"
        own_type = _name_type(str(schema.field(name).type))
        if info.schema_version > 1 and own_type != _name_type(type_name):
            return f"its column {name} is {own_type}, not {type_name}"
    return None


def _name_type(type_name: str) -> str:
    return type_name.replace("element:", "item:")  # Parquet has another name for what is in a list


def check_failures(dataset: Dataset, footer: Footer, path: str, deep: bool, folder: Path) -> Iterator[Fault]:
    """Yield the faults of the failures file that the footer of the part at `path` names."""
    if footer.failures is None:
        if footer.failed:
            shard = f"shard {footer.shard} of {footer.run}"
            yield Fault("failures", shard, "failed rows without a failures file", path)
        return
    if (text := describe_failures(dataset, footer.failures, footer.failed, deep, folder)) is not None:
        yield Fault("failures", footer.failures, text, path)


def describe_failures(dataset: Dataset, path: str, rows: int | None, deep: bool, folder: Path) -> str | None:
    """Say what is wrong with a failures file that should have `rows` rows (None: any number); None if nothing is."""
    try:
        with open_whole(dataset.store, path, folder) as file:
            if deep and (damage := describe_parquet_damage(file, dataset.info.has_own_checksums)):
                return damage
            reader = ParquetReader(file)
            if deep:
                for _ in reader.iter_batches():
                    pass
            if reader.schema_arrow.names != FAILURES.names or (rows is not None and reader.metadata.num_rows != rows):
                return f"it has {reader.metadata.num_rows} rows; the index part says {rows}"
            return None
    except FileNotFoundError:
        return "the failures file is missing"
    except (pa.ArrowException, ValueError, OSError) as error:
        return f"the failures file cannot be read: {error}"


def check_tar(dataset: Dataset, footer: Footer, part: str) -> Iterator[Fault]:
    """Yield a fault if the bytes of a shard's tar are not those that its footer tells; one that is gone is no matter.

    Its clips are checked by themselves; this is for what lies between them, such as the rows as JSON.
    """
    if footer.tar_sha256 is None:
        return
    path = footer.tar or paths.audio_tar(footer.run, footer.shard, footer.attempt)
    try:
        digest = wait_for_store(lambda: dataset.store.sha256(path), SHORT_PATIENCE_S)
    except FileNotFoundError:
        return
    if digest != footer.tar_sha256:
        yield Fault("tar", path, "the tar's sha256 is not that of the index part's footer", part)


def check_removed(footer: Footer, part: str, tombstones: Tombstones) -> Iterator[Fault]:
    """Yield a fault if clips of a part were deleted, and no entry of `removed/` keeps them from being made again."""
    lost = footer.removed - tombstones.count_deleted(footer.run, footer.shard)
    if lost > 0:
        yield Fault("removed", part, f"{lost} of its clips were deleted, and no entry of {paths.REMOVED}/ says so")
