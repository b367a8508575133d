"""`runs/<run>/report.json`: what ran, so that a dataset can be explained years later.

A run may take several sessions (interrupted, resumed). Each leaves its own; reports add up with `+`.
"""

import json
import os
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

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
    """One driver's work on a run, from its start to its end. Times are ISO 8601 in UTC; counts are of this session."""

    started_at: str
    finished_at: str
    made: int
    failed: int
    audio_s: float
    wall_s: float
    actors: int = 0
    interrupted: bool = False
    timings_s: dict[str, float] = field(default_factory=dict)  # by phase: plan, load, generate, publish
    events: dict[str, int] = field(default_factory=dict)  # actors replaced, attempts repeated, races lost ...
    versions: dict[str, str] = field(default_factory=dict)
    hardware: dict[str, Any] = field(default_factory=dict)
    engines: tuple[str, ...] = ()  # the engines' fingerprints


@dataclass(frozen=True)
class RunReport:
    """What is known of a run: its job without secrets, its model, its sessions."""

    run: str
    job: dict[str, Any]
    model: dict[str, Any]
    sessions: tuple[Session, ...] = ()
    published_at: str = ""  # when the card was last written after it; empty if no driver has lived to do so

    def __add__(self, other: "RunReport") -> "RunReport":
        """Both reports' sessions, in the order of time, each once. Raises `ValueError` for another run's report."""
        if self.run != other.run:
            raise ValueError(f"reports of two runs do not add up: {self.run} and {other.run}")
        sessions = {
            json.dumps(asdict(session), sort_keys=True): session for session in (*self.sessions, *other.sessions)
        }
        ordered = sorted(sessions.values(), key=lambda session: (session.started_at, session.finished_at))
        return RunReport(self.run, other.job, other.model, tuple(ordered), other.published_at or self.published_at)

    def totals(self) -> dict[str, Any]:
        """Sums over the sessions, with the rate in audio-seconds per second."""
        audio_s, wall_s = sum(s.audio_s for s in self.sessions), sum(s.wall_s for s in self.sessions)
        events: dict[str, int] = {}
        for session in self.sessions:
            for name, count in session.events.items():
                events[name] = events.get(name, 0) + count
        return {
            "made": sum(s.made for s in self.sessions),
            "failed": sum(s.failed for s in self.sessions),
            "audio_s": round(audio_s, 3),
            "wall_s": round(wall_s, 3),
            "audio_s_per_s": round(audio_s / wall_s, 3) if wall_s else 0.0,
            "events": events,
        }

    def to_json(self) -> dict[str, Any]:
        """As the document that is stored."""
        return {
            "version": 1,
            "run": self.run,
            "published_at": self.published_at,
            "totals": self.totals(),
            "job": self.job,
            "model": self.model,
        } | {"sessions": [asdict(session) for session in self.sessions]}


def read_report(store: Store, run: str) -> RunReport | None:
    """The report of a run, or None if there is none or it is damaged: a report must not stop a run."""
    try:
        document = json.loads(store.read(paths.report_file(run)))
        known = Session.__dataclass_fields__
        sessions = [{k: v for k, v in s.items() if k in known} for s in document["sessions"]]
        return RunReport(
            document["run"],
            document["job"],
            document["model"],
            tuple(Session(**{**s, "engines": tuple(s.get("engines", ()))}) for s in sessions),
            document.get("published_at", ""),
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def write_report(store: Store, report: RunReport) -> RunReport:
    """Add a session's report to what is stored; the sum."""
    before = read_report(store, report.run)
    total = report if before is None else before + report
    store.write(
        paths.report_file(report.run), json.dumps(total.to_json(), indent=1, ensure_ascii=False).encode() + b"\n"
    )
    return total


def package_versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """The versions of Python and of those of these packages that are installed."""
    versions = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def describe_hardware() -> dict[str, Any]:
    """This machine: processor, cores and memory. No host name."""
    import psutil

    return {
        "processor": processor_name() or platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "platform": f"{platform.system()} {platform.machine()}",
    }
