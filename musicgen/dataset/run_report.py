"""Reads and writes `runs/<run>/report.json`: the settings, versions, hardware and timings of a run.

A run that is interrupted and resumed has several sessions. Each writes a report, and reports are added with `+`.
"""

import json
import os
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version

from musicgen.dataset import paths
from musicgen.model.processor import processor_name
from musicgen.storage import Store

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


@dataclass(frozen=True)
class RunReport:
    """A run's job without secrets, its model and its sessions."""

    run: str
    job: dict[str, object]
    model: dict[str, object]
    sessions: tuple[Session, ...] = ()
    published_at: str = ""  # when the card was last written after the run; empty if no driver has done so yet

    def __add__(self, other: "RunReport") -> "RunReport":
        """Merge both reports' sessions, in order of time, each once. Raises `ValueError` for another run's report."""
        if self.run != other.run:
            raise ValueError(f"reports of two runs do not add up: {self.run} and {other.run}")
        sessions = {
            json.dumps(asdict(session), sort_keys=True): session for session in (*self.sessions, *other.sessions)
        }
        ordered = sorted(sessions.values(), key=lambda session: (session.started_at, session.finished_at))
        return RunReport(self.run, other.job, other.model, tuple(ordered), other.published_at or self.published_at)

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
        }

    def to_json(self) -> dict[str, object]:
        """Return the document that is stored."""
        return {
            "version": 1,
            "run": self.run,
            "published_at": self.published_at,
            "totals": self.totals(),
            "job": self.job,
            "model": self.model,
        } | {"sessions": [asdict(session) for session in self.sessions]}


def read_report(store: Store, run: str) -> RunReport | None:
    """Read the report of a run; None if it is missing or damaged, because a report must not stop a run."""
    try:
        document = json.loads(store.read(paths.report_file(run)))
        field_names = Session.__dataclass_fields__
        sessions = [
            {name: value for name, value in session.items() if name in field_names} for session in document["sessions"]
        ]
        return RunReport(
            document["run"],
            document["job"],
            document["model"],
            tuple(Session(**{**session, "engines": tuple(session.get("engines", ()))}) for session in sessions),
            document.get("published_at", ""),
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def write_report(store: Store, report: RunReport) -> RunReport:
    """Add a session's report to the stored one and write the sum. Returns the sum."""
    previous = read_report(store, report.run)
    total = report if previous is None else previous + report
    store.write(
        paths.report_file(report.run), json.dumps(total.to_json(), indent=1, ensure_ascii=False).encode() + b"\n"
    )
    return total


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
