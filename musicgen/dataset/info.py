"""`dataset.json`: what every run of a dataset has in common, fixed by the first one."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from musicgen.dataset import paths
from musicgen.dataset.schema import SCHEMA_VERSION
from musicgen.errors import JobError
from musicgen.storage import Store


@dataclass(frozen=True)
class Pins:
    """Schema version, audio layout and format, whether codes are kept, and the carried columns' types by name (as pyarrow spells them)."""

    layout: str
    format: str
    carried: Mapping[str, str] = field(default_factory=dict)
    codes: bool = False
    schema_version: int = SCHEMA_VERSION

    @classmethod
    def of(cls, layout: str, format: str, carried: Iterable[Any] = (), codes: bool = False) -> "Pins":
        """The pins of a job, with the carried columns as a pyarrow schema."""
        return cls(layout, format, {column.name: str(column.type) for column in carried}, codes)

    def differences(self, wanted: "Pins") -> list[str]:
        """What a job wants otherwise, each as a phrase."""
        found = [
            f"{name} is {getattr(self, name)!r}, not {getattr(wanted, name)!r}"
            for name in ("layout", "format", "codes")
            if getattr(self, name) != getattr(wanted, name)
        ]
        for name in sorted({*self.carried, *wanted.carried}):
            have, want = self.carried.get(name), wanted.carried.get(name)
            if have is None:
                found.append(f"it carries no column {name!r}")
            elif want is None:
                found.append(f"it carries a column {name!r} that the manifest lacks")
            elif have != want:
                found.append(f"the carried column {name!r} is {have}, not {want}")
        return found


def read_pins(store: Store) -> Pins | None:
    """The dataset's pins, or None where there is no dataset yet. Raises `JobError` for one that cannot be added to."""
    try:
        data = store.read(paths.PINS)
    except FileNotFoundError:
        return None
    where = store.join(paths.PINS)
    try:
        document = json.loads(data)
        version = int(document["schema_version"])
        pins = Pins(
            str(document["layout"]),
            str(document["format"]),
            dict(document["carried"]),
            bool(document.get("codes", False)),
            version,
        )
    except (ValueError, KeyError, TypeError):
        raise JobError(f"{where} is not a dataset's; choose an empty folder as output.uri") from None
    if version != SCHEMA_VERSION:
        raise JobError(
            f"{where}: schema version {version}, and this musicgen-batch writes version {SCHEMA_VERSION}; "
            "use the release that made it, or another output.uri"
        )
    return pins


def check_pins(store: Store, wanted: Pins) -> Pins | None:
    """The dataset's pins if a job fits them, None if there are none yet. Raises `JobError` naming what differs."""
    pins = read_pins(store)
    if pins is not None and (differences := pins.differences(wanted)):
        raise JobError(
            f"{store.uri} is a dataset that this job does not fit: {'; '.join(differences)}; change the job, or use another output.uri"
        )
    return pins


def pin(store: Store, wanted: Pins) -> Pins:
    """Fix the pins unless a run before, or one racing with this, has; then check against theirs."""
    if check_pins(store, wanted) is None:
        store.put_if_absent(paths.PINS, json.dumps(asdict(wanted), indent=2, ensure_ascii=False).encode() + b"\n")
        check_pins(store, wanted)
    return wanted
