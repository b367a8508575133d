"""The metrics of a run by name, as values of its progress, and their text in Prometheus' format (version 0.0.4)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from actors.messages import Progress

Kind = Literal["counter", "gauge"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. `measure` returns its value, or values by a label: pairs of (label's value, value)."""

    name: str
    kind: Kind
    help: str
    measure: Callable[[Progress], float | tuple[tuple[str, float], ...]]
    label: str = ""


METRICS = (
    Metric("musicgen_rows", "gauge", "Rows that this driver has to make", lambda progress: progress.rows),
    Metric("musicgen_rows_settled", "gauge", "Rows made or failed, by any driver", lambda progress: progress.settled),
    Metric("musicgen_clips_total", "counter", "Clips committed", lambda progress: progress.made),
    Metric("musicgen_audio_seconds_total", "counter", "Seconds of audio committed", lambda progress: progress.audio_s),
    Metric(
        "musicgen_failures_total", "counter", "Rows that failed, by class", lambda progress: progress.failures, "class"
    ),
    Metric("musicgen_retries_total", "counter", "Attempts at shards tried before", lambda progress: progress.retries),
    Metric(
        "musicgen_actors_replaced_total",
        "counter",
        "Actors that are gone, by cause",
        lambda progress: (
            ("crash", progress.crashes),
            ("preempted", progress.preemptions),
            ("lost", progress.losses),
            ("killed", progress.kills),
        ),
        "cause",
    ),
    Metric("musicgen_actors", "gauge", "Actors that are ready", lambda progress: progress.actors),
    Metric("musicgen_slots", "gauge", "Slots of the actors", lambda progress: progress.measures.slots),
    Metric("musicgen_slots_used", "gauge", "Slots that make a clip", lambda progress: progress.measures.slots_used),
    Metric(
        "musicgen_rows_queued", "gauge", "Rows that wait for a slot", lambda progress: progress.measures.rows_queued
    ),
    Metric("musicgen_steps_total", "counter", "Steps of the engines", lambda progress: progress.measures.steps),
    Metric(
        "musicgen_step_seconds_total", "counter", "Seconds in these steps", lambda progress: progress.measures.step_s
    ),
    Metric(
        "musicgen_store_requests_total",
        "counter",
        "Requests to buckets",
        lambda progress: progress.measures.store_requests,
    ),
    Metric(
        "musicgen_store_request_seconds_total",
        "counter",
        "Seconds in these requests",
        lambda progress: progress.measures.store_request_s,
    ),
    Metric(
        "musicgen_gpu_memory_bytes",
        "gauge",
        "Memory that the actors hold on GPUs",
        lambda progress: progress.measures.gpu_memory_bytes,
    ),
)


def list_values(metric: Metric, progress: Progress) -> Iterator[tuple[dict[str, str], float]]:
    """Yield the values of a metric, each with its labels."""
    value = metric.measure(progress)
    if isinstance(value, tuple):
        yield from (({metric.label: name}, number) for name, number in value)
    else:
        yield {}, value


def format_metrics(run: str, progress: Progress) -> str:
    """Return all metrics of a run as text."""
    lines: list[str] = []
    for metric in METRICS:
        lines += [f"# HELP {metric.name} {metric.help}", f"# TYPE {metric.name} {metric.kind}"]
        for labels, value in list_values(metric, progress):
            pairs = ",".join(f'{name}="{text}"' for name, text in {"run": run, **labels}.items())
            lines.append(f"{metric.name}{{{pairs}}} {float(value):.10g}")
    return "\n".join([*lines, ""])
