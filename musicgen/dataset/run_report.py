"""Reads and writes `runs/<run>/report.json`: the settings, versions, hardware and timings of a run.

A run that is interrupted and resumed, or that several drivers share, has several sessions. Each is an object of its
own, `runs/<run>/sessions/<session>.json`, and the report is their sum.
"""

import hashlib
import json
import os
import platform
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version

from musicgen.dataset import paths
from musicgen.model.processor import processor_name
from musicgen.own_checksum import dump_json
from musicgen.storage import Store
from musicgen.value_types import JsonObject

PACKAGES = (
    "musicgen-batch",
    "torch",
    "transformers",
    "ray",
    "prefect",
    "pyarrow",
    "numpy",
    "soundfile",
    "librosa",
    "s3fs",
    "duckdb",
)


@dataclass(frozen=True)
class Session:
    """One driver's work on a run, from start to end. Times are ISO 8601 in UTC; counts are the session's own."""

    started_at: str
    finished_at: str
    made: int
    failed: int
    audio_s: float
    wall_s: float
    actors: int = 0
    interrupted: bool = False
    timings_s: dict[str, float] = field(default_factory=dict)  # by phase: plan, load, generate, publish
    events: dict[str, int] = field(default_factory=dict)  # such as actors replaced and attempts repeated
    versions: dict[str, str] = field(default_factory=dict)
    hardware: dict[str, object] = field(default_factory=dict)
    engines: tuple[str, ...] = ()  # the engines' fingerprints
    actor_s: float = 0.0  # that actors were held, all together
    gpus_per_actor: float = 0.0
    price_per_hour: float | None = None  # of an actor, as the job said
    timeline: tuple[tuple[float, float], ...] = ()  # (seconds since its start, seconds of audio made until then)
    stopped_by: str = ""  # the limit of the user's, or the pause, that ended it

    @property
    def cost(self) -> float | None:
        """What its actors have cost; None if the job gave no price."""
        return None if self.price_per_hour is None else self.actor_s / 3600 * self.price_per_hour


@dataclass(frozen=True)
class RunReport:
    """A run's job without secrets, its model and its sessions."""

    run: str
    job: dict[str, object]
    model: dict[str, object]
    sessions: tuple[Session, ...] = ()
    published_at: str = ""  # when the card was last written after the run; empty if no driver has done so yet
    parts: int = 0  # index parts that the run had then; 0: not known

    def __add__(self, other: "RunReport") -> "RunReport":
        """Merge both reports' sessions, in order of time, each once. Raises `ValueError` for another run's report."""
        if self.run != other.run:
            raise ValueError(f"reports of two runs do not add up: {self.run} and {other.run}")
        sessions = {
            json.dumps(asdict(session), sort_keys=True): session for session in (*self.sessions, *other.sessions)
        }
        ordered = sorted(sessions.values(), key=lambda session: (session.started_at, session.finished_at))
        published_at, parts = other.published_at or self.published_at, max(other.parts, self.parts)
        return RunReport(self.run, other.job, other.model, tuple(ordered), published_at, parts)

    @property
    def cost(self) -> float | None:
        """What those sessions have cost whose job gave a price; None if no job did."""
        costs = [session.cost for session in self.sessions if session.cost is not None]
        return sum(costs) if costs else None

    def totals(self) -> dict[str, object]:
        """Sum over the sessions, and compute the rate in audio-seconds per second."""
        audio_s, wall_s = (
            sum(session.audio_s for session in self.sessions),
            sum(session.wall_s for session in self.sessions),
        )
        events: dict[str, int] = {}
        for session in self.sessions:
            for name, count in session.events.items():
                events[name] = events.get(name, 0) + count
        return {
            "made": sum(session.made for session in self.sessions),
            "failed": sum(session.failed for session in self.sessions),
            "audio_s": round(audio_s, 3),
            "wall_s": round(wall_s, 3),
            "audio_s_per_s": round(audio_s / wall_s, 3) if wall_s else 0.0,
            "events": events,
            "actor_hours": round(sum(session.actor_s for session in self.sessions) / 3600, 4),
            "gpu_hours": round(sum(session.actor_s * session.gpus_per_actor for session in self.sessions) / 3600, 4),
            "cost": None if self.cost is None else round(self.cost, 4),
        }

    def to_json(self) -> dict[str, object]:
        """Return the document that is stored."""
        return {
            "version": 1,
            "run": self.run,
            "published_at": self.published_at,
            "parts": self.parts,
            "totals": self.totals(),
            "job": self.job,
            "model": self.model,
        } | {"sessions": [asdict(session) for session in self.sessions]}

    @classmethod
    def from_json(cls, content: bytes) -> "RunReport":
        """Parse a stored document. Raises `ValueError`, `KeyError` or `TypeError` if it is damaged."""
        document = json.loads(content)
        sessions = tuple(_parse_session(session) for session in document["sessions"])
        published_at, parts = document.get("published_at", ""), int(document.get("parts", 0))
        return cls(document["run"], document["job"], document["model"], sessions, published_at, parts)


def is_priced(job: JsonObject) -> bool:
    """Return whether a run's job, as its plan has it, says what an actor costs."""
    return job.get("cluster", {}).get("price_per_hour") is not None


def read_report(store: Store, run: str) -> RunReport | None:
    """Read the report of a run; None if it is missing or damaged, because a report must not stop a run."""
    try:
        return RunReport.from_json(store.read(paths.report_file(run)))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def write_report(store: Store, report: RunReport) -> RunReport:
    """Add a report's sessions to the run's, and write the sum of all sessions to `report.json`. Returns the sum.

    Several drivers may do this at once. Each session is an object of its own, which nobody writes over, and whoever
    writes the sum last has seen all of them.
    """
    for session in report.sessions:
        store.write(name_session(report.run, session), dump_session(session))
    while True:
        total = report + replace(report, sessions=read_sessions(store, report.run), published_at="", parts=0)
        if (previous := read_report(store, report.run)) is not None:
            total = previous + total
        content = dump_json(total.to_json(), indent=1, end="\n")
        store.write(paths.report_file(report.run), content)
        if all(session in total.sessions for session in read_sessions(store, report.run)):
            return total


def dump_session(session: Session) -> bytes:
    """Return the stored document of a session."""
    return dump_json(asdict(session), indent=1, end="\n")


def name_session(run: str, session: Session) -> str:
    """Return the path of a session, which has a hash of it. Earlier releases gave another name."""
    return paths.session_file(run, hashlib.sha256(dump_session(session)).hexdigest()[:12])


def read_sessions(store: Store, run: str) -> tuple[Session, ...]:
    """Read the sessions of a run; a damaged one is left out."""
    sessions = []
    for file_info in store.list(paths.sessions_folder(run)):
        with suppress(FileNotFoundError, ValueError, KeyError, TypeError):
            sessions.append(_parse_session(json.loads(store.read(file_info.path))))
    return tuple(sessions)


def _parse_session(document: JsonObject) -> Session:
    """Parse a session; fields that another version has added are passed over. Raises `TypeError` for anything else."""
    if not isinstance(document, dict):
        raise TypeError(f"a session is an object, not {document!r}")
    known = {name: value for name, value in document.items() if name in Session.__dataclass_fields__}
    timeline = tuple((float(second), float(audio_s)) for second, audio_s in known.get("timeline", ()))
    return Session(**{**known, "engines": tuple(known.get("engines", ())), "timeline": timeline})


def package_versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Return the versions of Python and of the installed ones of these packages."""
    versions = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def describe_hardware() -> dict[str, object]:
    """Describe this machine by processor, cores and memory, without its host name."""
    import psutil

    return {
        "processor": processor_name() or platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "platform": f"{platform.system()} {platform.machine()}",
    }
