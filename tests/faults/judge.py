"""What a job has left in its dataset, and how that differs from the calm run's."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from tests.faults.jobs import EXTRA_ID


@dataclass(frozen=True)
class Outcome:
    """The rows of a dataset: `made` is key -> sha256 of the audio, `failed` is id -> failure classes."""

    made: Mapping[str, str]
    ids: Mapping[str, str]  # key -> id
    failed: Mapping[str, tuple[str, ...]]
    twice: tuple[str, ...]  # ids whose key stands in the index more than once
    unsound: tuple[str, ...] = ()  # what a deep verification finds

    def to_json(self) -> dict[str, object]:
        """Plain values for a file."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, object]) -> "Outcome":
        """Read what `to_json` wrote."""
        fields = dict(values)
        failed = fields["failed"]
        assert isinstance(failed, dict)
        fields["failed"] = {row: tuple(classes) for row, classes in failed.items()}
        fields["twice"], fields["unsound"] = tuple(values["twice"]), tuple(values["unsound"])  # type: ignore[arg-type]
        return cls(**fields)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Verdict:
    """Rows by what went wrong with them, as ids with a word; all empty for a dataset like the calm one."""

    lost: tuple[str, ...] = ()  # neither made nor, where that is right, failed
    twice: tuple[str, ...] = ()
    blamed: tuple[str, ...] = ()  # recorded as failed, and the calm run made it or failed it for another reason
    changed: tuple[str, ...] = ()  # made with other audio
    unsound: tuple[str, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """Whether the dataset is as if there had been no fault."""
        return not (self.lost or self.twice or self.blamed or self.changed or self.unsound)


def read_outcome(uri: str) -> Outcome:
    """Read and deeply verify the dataset at `uri`; the environment has to point at its store."""
    from musicgen.dataset import open_dataset
    from musicgen.dataset.verification import verify_dataset

    dataset = open_dataset(uri)
    table = dataset.to_arrow(["key", "id", "audio_sha256"]).to_pydict()
    ids = {key: row or key for key, row in zip(table["key"], table["id"], strict=True)}
    failed: dict[str, set[str]] = {}
    for row in dataset.failures(all=True).select(["id", "source", "error_class"]).to_pylist():
        failed.setdefault(row["id"] or row["source"], set()).add(row["error_class"])
    report = verify_dataset(dataset, deep=True)
    return Outcome(
        made=dict(zip(table["key"], table["audio_sha256"], strict=True)),
        ids=ids,
        failed={row: tuple(sorted(classes)) for row, classes in failed.items()},
        twice=tuple(ids[key] for key, count in Counter(table["key"]).items() if count > 1),
        unsound=tuple(str(fault) for fault in report.faults),
    )


def judge_outcome(outcome: Outcome, calm: Outcome) -> Verdict:
    """Compare a dataset with the calm one. The row of a superseding job may be there besides."""
    calm_ids = set(calm.ids.values())
    made_ids = {outcome.ids[key] for key in outcome.made}
    lost = [calm.ids[key] for key in calm.made if key not in outcome.made]
    lost += [row for row in calm.failed if row not in outcome.failed]
    blamed = []
    for row, classes in outcome.failed.items():
        right = set(calm.failed.get(row, ()))
        if wrong := set(classes) - right:
            blamed.append(f"{row} ({', '.join(sorted(wrong))})")
    changed = [calm.ids[key] for key, sha in outcome.made.items() if calm.made.get(key, sha) != sha]
    changed += sorted(f"{row} (not planned)" for row in made_ids - calm_ids - {EXTRA_ID})
    planned = len(calm.made) + len(calm.failed)
    counts = {"planned": planned, "made": len(outcome.made), "failed": len(outcome.failed)}
    return Verdict(
        lost=tuple(lost),
        twice=outcome.twice,
        blamed=tuple(blamed),
        changed=tuple(changed),
        unsound=outcome.unsound,
        counts=counts,
    )
