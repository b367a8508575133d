"""Reads and writes `dataset.json`: the properties that all runs of a dataset share, written by the first run."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from musicgen.dataset import paths
from musicgen.dataset.schema import SCHEMA_VERSION
from musicgen.errors import JobError, StoreError
from musicgen.own_checksum import check_json, dump_json
from musicgen.storage import Store
from musicgen.value_types import JsonObject
from musicgen.version import package_version

if TYPE_CHECKING:
    import pyarrow as pa


class InfoDamaged(JobError):
    """`dataset.json` cannot be read: it is damaged, or somebody else's file."""


@dataclass(frozen=True)
class DatasetInfo:
    """What every run of a dataset has in common.

    `carried` maps the names of the carried columns to the names of their types in pyarrow. What follows
    `schema_version` is there since version 2: `carried_names` maps the manifest's names of the carried columns to the
    index's, `checksums` says that every page of the dataset's Parquet files has a checksum, `tags` names the tagger
    whose sidecars the dataset has (None: it has none), `begun_by` the release that began it. `has_own_checksums` is not
    in the document: it has a checksum itself, and so have all files of the dataset (`musicgen.own_checksum`).
    """

    layout: str
    format: str
    carried: Mapping[str, str] = field(default_factory=dict)
    codes: bool = False
    schema_version: int = SCHEMA_VERSION
    carried_names: Mapping[str, str] = field(default_factory=dict)
    checksums: bool = False
    tags: str | None = None
    begun_by: str = ""
    has_own_checksums: bool = False

    @classmethod
    def of(
        cls,
        layout: str,
        format: str,
        carried: "pa.Schema | None" = None,
        codes: bool = False,
        carried_names: Mapping[str, str] | None = None,
    ) -> "DatasetInfo":
        """Make the info of the dataset that a job would begin, from a pyarrow schema of the carried columns.

        `carried_names` maps the manifest's names to the schema's; None: they are the same.
        """
        types = {} if carried is None else {column.name: str(column.type) for column in carried}
        return cls(
            layout,
            format,
            types,
            codes,
            carried_names={name: name for name in types} if carried_names is None else dict(carried_names),
            checksums=True,
            begun_by=f"musicgen-batch {package_version()}",
            has_own_checksums=True,
        )

    @classmethod
    def from_json(cls, content: bytes) -> "DatasetInfo":
        """Parse `dataset.json`; fields that a later version has added are passed over.

        Raises `ValueError`, `KeyError` or `TypeError` if it is not a dataset's.
        """
        document = json.loads(content)
        version = int(document["schema_version"])
        if version < 1:
            raise ValueError(f"schema version {version}")
        tags = document.get("tags")
        return cls(
            str(document["layout"]),
            str(document["format"]),
            dict(document["carried"]),
            bool(document.get("codes", False)),
            version,
            dict(document.get("carried_names", {})),
            bool(document.get("checksums", False)),
            None if tags is None else str(tags),
            str(document.get("begun_by", "")),
            check_json(content) != "absent",
        )

    def to_json(self) -> bytes:
        """Return the stored document, with its own checksum."""
        document = asdict(self)
        del document["has_own_checksums"]
        return dump_json(document, indent=2, end="\n")

    def differences(self, expected: "DatasetInfo") -> list[str]:
        """Describe the differences from the info that a job expects, each as a phrase.

        Since version 2 a job may have columns that the dataset lacks, which are added (`write_dataset_info`), and lack
        columns that the dataset has, which are null in its rows.
        """
        differences = [
            f"{name} is {getattr(self, name)!r}, not {getattr(expected, name)!r}"
            for name in ("layout", "format", "codes")
            if getattr(self, name) != getattr(expected, name)
        ]
        for name in sorted({*self.carried, *expected.carried}):
            own_type, expected_type = self.carried.get(name), expected.carried.get(name)
            if self.schema_version > 1 and (own_type is None or expected_type is None):
                continue
            if own_type is None:
                differences.append(f"it carries no column {name!r}")
            elif expected_type is None:
                differences.append(f"it carries a column {name!r} that the manifest lacks")
            elif own_type != expected_type:
                differences.append(f"the carried column {name!r} is {own_type}, not {expected_type}")
        if self.carried_names and expected.carried_names:
            own_sources = {name: source for source, name in self.carried_names.items()}
            differences += [
                f"the carried column {name!r} is the manifest's {own_sources.get(name)!r}, not its {source!r}"
                for source, name in sorted(expected.carried_names.items())
                if name in self.carried and own_sources.get(name) != source
            ]
        return differences


def read_dataset_info(store: Store) -> DatasetInfo | None:
    """Read `dataset.json` of any schema version; None if there is no dataset yet.

    Raises `JobError` for a file that is not a dataset's, and `InfoDamaged` where runs were planned and it is lost.
    """
    try:
        content = store.read(paths.INFO)
    except FileNotFoundError:
        if not _has_runs(store):
            return None
        try:
            content = store.read(paths.INFO)  # another planner may have begun the dataset meanwhile
        except FileNotFoundError:
            content = b""
    try:
        return DatasetInfo.from_json(content)
    except (ValueError, KeyError, TypeError):
        advice = "is not a dataset's; choose an empty folder as output.uri"
        if _has_runs(store):
            advice = f"is {'damaged' if content else 'lost'}; `musicgen repair` makes it again from the runs' plans"
        raise InfoDamaged(f"{store.join(paths.INFO)} {advice}") from None


def _has_runs(store: Store) -> bool:
    """Whether a run was planned in the store: what it has is a dataset."""
    return next(iter(store.list(paths.RUN_ORDER)), None) is not None


def require_dataset_info(store: Store) -> DatasetInfo:
    """Read `dataset.json`. Raises `StoreError` if there is none, and `JobError` for a file that is not a dataset's."""
    info = read_dataset_info(store)
    if info is None:
        raise StoreError(f"{store.uri} is not a dataset (it has no {paths.INFO}); check the path")
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
    """Return the dataset's info if a job can add to it, None if there is no dataset.

    Raises `JobError` that names the differences, and for a dataset of a later schema version than ours.
    """
    info = read_dataset_info(store)
    if info is not None and info.schema_version > SCHEMA_VERSION:
        raise JobError(
            f"{store.uri} is a dataset of schema version {info.schema_version}, which this release "
            f"({package_version()}) reads but cannot add to: it writes versions up to {SCHEMA_VERSION}; use "
            f"{info.begun_by or 'the release that began it'} or a later one, or another output.uri"
        )
    if info is not None and (differences := info.differences(expected)):
        raise JobError(
            f"{store.uri} is a dataset that this job does not fit: {'; '.join(differences)}; "
            "change the job, or use another output.uri"
        )
    return info


def write_dataset_info(store: Store, expected: DatasetInfo) -> DatasetInfo:
    """Write `dataset.json` if it is absent, then check that the job fits it, since another job may have been first.

    Carried columns that only the job has are added to the dataset's, for which the file is replaced. Returns what the
    dataset has, which is of another schema version if an earlier release began it. Raises `JobError` that names the
    differences, and for a folder with somebody else's files; `StoreError` where a store cannot replace the file safely.
    """
    info = check_dataset_info(store, expected)
    if info is None:
        refuse_foreign_folder(store)
        store.put_if_absent(paths.INFO, expected.to_json())
        info = check_dataset_info(store, expected)
    probed = False
    while info is not None and not set(expected.carried) <= set(info.carried):
        if not (probed or store.single_writer):
            store.probe_replacing()
            probed = True
        etag = store.info(paths.INFO).etag
        document = json.loads(store.read(paths.INFO))
        for name in ("carried", "carried_names"):  # another job may have added columns meanwhile; its types count
            document[name] = {**getattr(expected, name), **document.get(name, {})}
        store.replace_if_match(paths.INFO, _format_grown(document, info.has_own_checksums), etag)
        info = check_dataset_info(store, expected)
    return info or expected


def _format_grown(document: JsonObject, has_own_checksum: bool) -> bytes:
    """Return a stored document again, with a checksum of its own if it had one."""
    if not has_own_checksum:
        return json.dumps(document, indent=2, ensure_ascii=False).encode() + b"\n"
    return dump_json({name: value for name, value in document.items() if name != "sha256"}, indent=2, end="\n")
