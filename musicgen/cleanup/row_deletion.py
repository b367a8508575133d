"""Takes the rows of removed clips out of index parts, and their audio with them where a part or a tar holds it.

A part is never deleted: it is replaced in one request, on condition that it is still the one that was read, with the
same run, shard, attempt and rows in its footer. A tar is written anew under another name before the part that names it
is replaced, so that at any moment every row of the index has its audio.
"""

import hashlib
import tarfile
from collections.abc import Iterator, Set
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pyarrow.compute as pc

from musicgen.dataset import paths
from musicgen.dataset.index_part import parse_footer, schema_with, write_part
from musicgen.dataset.layouts import add_member
from musicgen.dataset.reader import Dataset
from musicgen.dataset.visible_rows import select_visible
from musicgen.errors import StoreError, first_line
from musicgen.storage.parquet_reader import ParquetReader
from musicgen.temporary_folder import temporary_folder

_TRIES = 5
_REASON = "gc: removed clips were deleted"

TarPlaces = dict[str, tuple[str, int]]
"""The tar and the offset in it of clips, by key."""


def delete_rows(dataset: Dataset, part_path: str, gone: Set[str]) -> int:
    """Replace an index part by one without the rows of these keys; returns how many it had.

    Raises `StoreError` if the part is damaged, or if others replace it again and again.
    """
    for _ in range(_TRIES):
        try:
            deleted = _replace_part(dataset, part_path, gone)
        except FileNotFoundError:
            return 0
        except (pa.ArrowException, ValueError, tarfile.TarError) as error:
            raise StoreError(
                f"{dataset.store.join(part_path)} cannot be read ({first_line(error)}); repair the dataset first: "
                f"musicgen repair {dataset.uri}"
            ) from None
        if deleted is not None:
            return deleted
    raise StoreError(f"{dataset.store.join(part_path)} is replaced by others again and again; run again")


def _replace_part(dataset: Dataset, part_path: str, gone: Set[str]) -> int | None:
    """Return the number of rows that were deleted; None if the part has changed since it was read."""
    store = dataset.store
    etag = store.info(part_path).etag
    with store.open(part_path) as file, temporary_folder() as folder:
        part = ParquetReader(file)
        footer = parse_footer(part.schema_arrow.metadata, store.join(part_path))
        columns = ["key", "duration_s", *(["audio"] if dataset.info.layout == "webdataset" else [])]
        rows = part.read(columns)
        visible = rows.filter(select_visible(rows["key"], gone))
        deleted = rows.num_rows - visible.num_rows
        if not deleted:
            return 0
        places, tar, tar_sha256 = None, None, None
        if "audio" in columns:
            places, tar, tar_sha256 = _rewrite_tars(dataset, visible, footer.attempt, folder)
        footer = replace(
            footer,
            made=visible.num_rows,
            removed=footer.removed + deleted,
            audio_s=round(pc.sum(visible["duration_s"]).as_py() or 0.0, 6),
            revision=footer.revision + 1,
            reason=_REASON,
            tar=tar,
            tar_sha256=tar_sha256 if footer.tar_sha256 else None,
        )
        schema = schema_with(part.schema_arrow.remove_metadata(), footer)
        temporary_path = folder / "part.parquet"
        write_part(temporary_path, schema, _keep_rows(part, gone, places))
        return deleted if store.replace_if_match(part_path, temporary_path, etag) else None


def _keep_rows(part: ParquetReader, gone: Set[str], places: TarPlaces | None) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a part that stay, a row group at a time; with `places`, at their new places in tars."""
    for row_group in range(part.num_row_groups):
        table = part.read_row_group(row_group).replace_schema_metadata(None)
        table = table.filter(select_visible(table["key"], gone))
        if places is not None:
            keys = table["key"].to_pylist()
            for name, number in (("audio", 0), ("audio_offset", 1)):
                values = pa.array([places[key][number] for key in keys], table.schema.field(name).type)
                table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), values)
        yield from table.combine_chunks().to_batches()


def _rewrite_tars(
    dataset: Dataset, visible: pa.Table, attempt: str, folder: Path
) -> tuple[TarPlaces, str | None, str | None]:
    """Write the members of these rows into new tars, one for each tar that they are in.

    Returns the places of the clips, and path and sha256 of the tar, if it is one.
    """
    places: TarPlaces = {}
    tars: dict[str, str] = {}
    for old_path in pc.unique(visible["audio"]).to_pylist():
        run, shard = paths.parse_audio_tar(old_path) or ("", 0)
        kept = set(visible.filter(pc.equal(visible["audio"], old_path))["key"].to_pylist())
        new_path = paths.audio_tar(run, shard, f"{attempt}-{uuid4().hex[:8]}")
        temporary_path = folder / "shard.tar"
        with (
            dataset.store.open(old_path) as source,
            tarfile.open(fileobj=source, mode="r:") as old,
            tarfile.open(temporary_path, "w", format=tarfile.USTAR_FORMAT) as new,
        ):
            for member in old:
                key, _, extension = member.name.partition(".")
                content = old.extractfile(member)
                if key not in kept or content is None:
                    continue
                offset = add_member(new, member.name, content.read())
                if extension == dataset.info.format:
                    places[key] = new_path, offset
        if missing := kept - places.keys():
            raise ValueError(f"{old_path} lacks the clip {min(missing)}; `musicgen verify` says what else is wrong")
        with temporary_path.open("rb") as file:
            tars[new_path] = hashlib.file_digest(file, "sha256").hexdigest()
        dataset.store.write(new_path, temporary_path)
        temporary_path.unlink()
    return (places, *next(iter(tars.items()))) if len(tars) == 1 else (places, None, None)
