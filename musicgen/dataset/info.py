"""`dataset.json`: what all runs of a dataset have in common, written by the first one."""

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

    `carried` maps the names of the carried columns to their types as pyarrow spells them.
    """

    layout: str
    format: str
    carried: Mapping[str, str] = field(default_factory=dict)
    codes: bool = False
    schema_version: int = SCHEMA_VERSION

    @classmethod
    def of(cls, layout: str, format: str, carried: "pa.Schema | None" = None, codes: bool = False) -> "DatasetInfo":
        """The info of a job's dataset, with the carried columns as a pyarrow schema."""
        types = {} if carried is None else {column.name: str(column.type) for column in carried}
        return cls(layout, format, types, codes)

    def differences(self, wanted: "DatasetInfo") -> list[str]:
        """The differences from what a job wants, each as a phrase."""
        differences = [
            f"{name} is {getattr(self, name)!r}, not {getattr(wanted, name)!r}"
            for name in ("layout", "format", "codes")
            if getattr(self, name) != getattr(wanted, name)
        ]
        for name in sorted({*self.carried, *wanted.carried}):
            own_type, wanted_type = self.carried.get(name), wanted.carried.get(name)
            if own_type is None:
                differences.append(f"it carries no column {name!r}")
            elif wanted_type is None:
                differences.append(f"it carries a column {name!r} that the manifest lacks")
            elif own_type != wanted_type:
                differences.append(f"the carried column {name!r} is {own_type}, not {wanted_type}")
        return differences


def read_dataset_info(store: Store) -> DatasetInfo | None:
    """Read `dataset.json`; None where there is no dataset yet.

    Raises `JobError` for a file that is not ours or has another schema version.
    """
    try:
        data = store.read(paths.INFO)
    except FileNotFoundError:
        return None
    uri = store.join(paths.INFO)
    try:
        document = json.loads(data)
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


def check_dataset_info(store: Store, wanted: DatasetInfo) -> DatasetInfo | None:
    """Return the dataset's info if a job fits it, None if there is no dataset.

    Raises `JobError` naming what differs.
    """
    info = read_dataset_info(store)
    if info is not None and (differences := info.differences(wanted)):
        raise JobError(
            f"{store.uri} is a dataset that this job does not fit: {'; '.join(differences)}; "
            "change the job, or use another output.uri"
        )
    return info


def write_dataset_info(store: Store, wanted: DatasetInfo) -> DatasetInfo:
    """Write `dataset.json` if it is absent, then check that the job fits what is there: another job may have been
    first.

    Raises `JobError` naming what differs.
    """
    if check_dataset_info(store, wanted) is None:
        store.put_if_absent(paths.INFO, json.dumps(asdict(wanted), indent=2, ensure_ascii=False).encode() + b"\n")
        check_dataset_info(store, wanted)
    return wanted
