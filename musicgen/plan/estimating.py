"""Estimates how long a run takes, from the command to its end: the start of its actors, and then the audio.

The rate comes from the reports of earlier runs of the dataset that had the same model on the same machine; where there
are none, from the model's size.
"""

import json
import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from statistics import median_low

from musicgen.cluster_settings import NO_CLUSTER
from musicgen.dataset.run_report import Session, describe_hardware, read_report
from musicgen.errors import StoreError
from musicgen.generator_spec import GeneratorSpec
from musicgen.model.decoder.kernel_library import are_kernels_ready
from musicgen.model.processor import usable_cpus
from musicgen.plan.expected_actors import ActorsStart, ExpectedActors
from musicgen.plan.run_estimate import RunEstimate
from musicgen.storage import Store

# Measured on two cores with the embedded model: the command's own imports, plan and card; a model with its libraries;
# Ray and the process of an actor, while the record's process starts beside it.
_COMMAND_S = 2.0
_MODEL_S = 3.0
_RAY_S: dict[ActorsStart, float] = {"local_ray": 12.0, "joined": 5.0, "in_process": 0.0}
_FIRST_CLIP_S = 1.0  # what the first clip takes longer than others: libraries are imported for it
_COMPILE_S = 25.0  # of the CPU kernels, once on a machine
_CODEC_RATE = 8.0  # seconds of audio per second and thread that the codec decodes on a CPU, whatever the model's size
_REPORTS_READ = 8  # the latest ones
_SESSIONS_USED = 4
_LOAD_SAMPLES, _LOAD_SAMPLE_S = 10, 0.01


def guess_run(spec: GeneratorSpec, actors: ExpectedActors, shards: int, audio_s: float) -> RunEstimate:
    """Estimate a run from the model's size, its devices and their threads, and the load of this machine."""
    on_gpu = actors.gpus_each > 0
    rate = spec.estimate_speed(on_gpu=on_gpu)
    start_s = _COMMAND_S + _RAY_S[actors.start] + _MODEL_S + _FIRST_CLIP_S
    slowdown = 1.0 if actors.start == "joined" else _measure_slowdown()
    if not on_gpu:
        rate = min(rate, _CODEC_RATE * max(1, actors.threads)) / slowdown
    start_s *= slowdown
    return RunEstimate(audio_s, start_s, rate, max(1, min(actors.fewest, shards)), gpus_each=actors.gpus_each)


def estimate_run(
    store: Store,
    runs: Sequence[str],
    identity: str,
    spec: GeneratorSpec,
    actors: ExpectedActors,
    shards: int,
    audio_s: float,
) -> RunEstimate:
    """Estimate a run of the model `identity` by the dataset's `runs`, the newest first, as far as they are like it."""
    estimate = guess_run(spec, actors, shards, audio_s)
    sessions = list(_find_like_sessions(store, runs[:_REPORTS_READ], identity, actors))[:_SESSIONS_USED]
    if sessions:
        # Of several the quicker ones: other programs make a start longer, and nothing makes one shorter.
        start_s = median_low(_measure_start(session) for session in sessions)
        estimate = replace(
            estimate,
            rate=_measure_rate(sessions),
            start_s=_COMMAND_S + start_s + _FIRST_CLIP_S,
            earlier_runs=len(sessions),
        )
    if actors.start != "joined" and not actors.gpus_each and not are_kernels_ready():
        estimate = replace(estimate, start_s=estimate.start_s + _COMPILE_S, compiles=True)
    return estimate


def _find_like_sessions(store: Store, runs: Sequence[str], identity: str, actors: ExpectedActors) -> Iterator[Session]:
    """Yield the sessions with this model on this machine that made something and were not interrupted."""
    hardware = describe_hardware()
    for run in runs:
        with suppress(StoreError):  # a report must not stop a run
            report = read_report(store, run)
            if report is None or report.model.get("identity") != identity:
                continue
            in_process = _was_in_process(report.job)
            for session in reversed(report.sessions):
                if in_process == (actors.start == "in_process") and _is_like(session, hardware, actors):
                    yield session


def _is_like(session: Session, hardware: dict[str, object], actors: ExpectedActors) -> bool:
    if session.interrupted or session.audio_s <= 0 or not session.actors or not session.timings_s.get("generate"):
        return False
    if any(session.hardware.get(name) != hardware[name] for name in ("processor", "cores")):
        return False
    engines = [_parse_engine(engine) for engine in session.engines]
    if any((engine.get("device") != "cpu") != (actors.gpus_each > 0) for engine in engines):
        return False
    threads = {engine.get("threads") for engine in engines}
    return bool(engines) and (actors.gpus_each > 0 or not actors.threads or threads == {actors.threads})


def _measure_slowdown() -> float:
    """Return by how much other programs on this machine slow a new one down; 1: not at all.

    Its load of the last minute counts as far as there are as many threads to run now: what has ended slows nothing
    down.
    """
    try:
        load = min(os.getloadavg()[0], _count_other_threads())
    except OSError:
        return 1.0
    return max(1.0, load / usable_cpus() + 0.5)


def _count_other_threads() -> float:
    """Return how many threads of other programs want a processor, as the mean over a moment; without /proc infinite."""
    counts = []
    for _ in range(_LOAD_SAMPLES):
        try:
            counts.append(int(Path("/proc/loadavg").read_text().split()[3].partition("/")[0]) - 1)
        except (OSError, ValueError, IndexError):
            return math.inf
        time.sleep(_LOAD_SAMPLE_S)
    return sum(counts) / len(counts)


def _was_in_process(job: dict[str, object]) -> bool:
    cluster = job.get("cluster")
    return isinstance(cluster, dict) and cluster.get("address") == NO_CLUSTER


def _measure_rate(sessions: Sequence[Session]) -> float:
    """Return an actor's seconds of audio per second, without what its first clip takes longer."""
    actor_s = sum(
        session.actors * max(session.timings_s["generate"] - _FIRST_CLIP_S, session.timings_s["generate"] / 2)
        for session in sessions
    )
    return sum(session.audio_s for session in sessions) / actor_s


def _measure_start(session: Session) -> float:
    """Return the seconds that Ray and the session's first actor took to start, but for compiling the kernels."""
    timings = session.timings_s
    compile_s = min(timings.get("compile", 0.0), timings.get("load", 0.0))
    return timings.get("cluster", 0.0) + max(0.0, session.wall_s - timings["generate"] - compile_s)


def _parse_engine(fingerprint: str) -> dict[str, object]:
    try:
        engine = json.loads(fingerprint)
    except ValueError:
        return {}
    return engine if isinstance(engine, dict) else {}
