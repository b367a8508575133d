"""Reads and writes `dataset.json`: the properties that all runs of a dataset share, written by the first run."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from musicgen.dataset import paths
from musicgen.dataset.schema import SCHEMA_VERSION
from musicgen.errors import JobError
from musicgen.storage import Store

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class DatasetInfo:
    """The layout and format of a dataset's audio, whether it keeps codes, its carried columns and its schema version.

    `carried` maps the names of the carried columns to the names of their types in pyarrow.
    """

    layout: str
    format: str
    carried: Mapping[str, str] = field(default_factory=dict)
    codes: bool = False
    schema_version: int = SCHEMA_VERSION

    @classmethod
    def of(cls, layout: str, format: str, carried: "pa.Schema | None" = None, codes: bool = False) -> "DatasetInfo":
        """Make the info of a job's dataset from a pyarrow schema of the carried columns."""
        types = {} if carried is None else {column.name: str(column.type) for column in carried}
        return cls(layout, format, types, codes)

    def differences(self, expected: "DatasetInfo") -> list[str]:
        """Describe the differences from the info that a job expects, each as a phrase."""
        differences = [
            f"{name} is {getattr(self, name)!r}, not {getattr(expected, name)!r}"
            for name in ("layout", "format", "codes")
            if getattr(self, name) != getattr(expected, name)
        ]
        for name in sorted({*self.carried, *expected.carried}):
            own_type, expected_type = self.carried.get(name), expected.carried.get(name)
            if own_type is None:
                differences.append(f"it carries no column {name!r}")
            elif expected_type is None:
                differences.append(f"it carries a column {name!r} that the manifest lacks")
            elif own_type != expected_type:
                differences.append(f"the carried column {name!r} is {own_type}, not {expected_type}")
        return differences


def read_dataset_info(store: Store) -> DatasetInfo | None:
    """Read `dataset.json`; None if there is no dataset yet.

    Raises `JobError` for a file that is not a dataset's, and for another schema version.
    """
    try:
        content = store.read(paths.INFO)
    except FileNotFoundError:
        return None
    uri = store.join(paths.INFO)
    try:
        document = json.loads(content)
        version = int(document["schema_version"])
        info = DatasetInfo(
            str(document["layout"]),
            str(document["format"]),
            dict(document["carried"]),
            bool(document.get("codes", False)),
            version,
        )
    except (ValueError, KeyError, TypeError):
        raise JobError(f"{uri} is not a dataset's; choose an empty folder as output.uri") from None
    if version != SCHEMA_VERSION:
        raise JobError(
            f"{uri}: schema version {version}, and this musicgen-batch writes version {SCHEMA_VERSION}; "
            "use the release that made it, or another output.uri"
        )
    return info


def refuse_foreign_folder(store: Store) -> None:
    """Raise `JobError` if the store has no dataset, but holds names that a run writes: somebody else's files."""
    if read_dataset_info(store) is not None:
        return
    files = [name for name in paths.WRITTEN_FILES if store.exists(name)]
    folders = [f"{name}/" for name in paths.WRITTEN_FOLDERS if next(iter(store.list(name)), None) is not None]
    if (files or folders) and read_dataset_info(store) is None:  # else another driver has begun the dataset meanwhile
        raise JobError(
            f"{store.uri} is no dataset (it has no {paths.INFO}), but holds {', '.join(files + folders)}, "
            "which a run would write; move that away, or use another output.uri"
        )


def check_dataset_info(store: Store, expected: DatasetInfo) -> DatasetInfo | None:
    """Return the dataset's info if a job fits it, None if there is no dataset.

    Raises `JobError` that names the differences.
    """
    info = read_dataset_info(store)
    if info is not None and (differences := info.differences(expected)):
        raise JobError(
            f"{store.uri} is a dataset that this job does not fit: {'; '.join(differences)}; "
            "change the job, or use another output.uri"
        )
    return info


def write_dataset_info(store: Store, expected: DatasetInfo) -> DatasetInfo:
    """Write `dataset.json` if it is absent, then check that the job fits it, since another job may have been first.

    Raises `JobError` that names the differences, and for a folder with somebody else's files.
    """
    if check_dataset_info(store, expected) is None:
        refuse_foreign_folder(store)
        store.put_if_absent(paths.INFO, json.dumps(asdict(expected), indent=2, ensure_ascii=False).encode() + b"\n")
        check_dataset_info(store, expected)
    return expected
