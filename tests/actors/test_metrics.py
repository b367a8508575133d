"""The metrics of a run: their text, the file and the port, and the dashboard on a real Prometheus."""

import json
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from actors.actor_measures import ActorMeasures
from actors.cluster import join_cluster
from actors.death_counts import DeathCounts
from actors.messages import Heartbeat, Progress, ShardAttempt, ShardReport
from actors.metrics import METRICS, format_metrics
from actors.metrics_export import export_metrics
from actors.progress_counter import ProgressCounter
from musicgen.cluster_settings import ClusterSettings, MetricsSettings
from musicgen.errors import JobError
from tests.conftest import free_port

DASHBOARD = Path(__file__).parents[2] / "infra/grafana/dashboard.json"
MEASURES = ActorMeasures(8, 6, 3, 1 << 30, 500, 20.0, 40, 2.0)
COUNTS = {"retries": 3, "crashes": 1, "actors": 2}  # none is 0, because Ray shows a count only when it is above
PROGRESS = Progress(100, 10, 4, 38, 2, 380.0, failures=(("generation", 1), ("melody", 1)), measures=MEASURES, **COUNTS)


def test_counts_stay_when_their_actor_ends_and_states_do_not() -> None:
    counter = ProgressCounter(10, 2)
    counter.on_heartbeat(0, Heartbeat(measures=MEASURES))
    counter.on_heartbeat(1, Heartbeat(measures=MEASURES))
    counter.on_committed(0, ShardReport(ShardAttempt(0), True, 3, 2, 1.0, failures=(("melody", 2),)))
    counter.on_assigned(ShardAttempt(0))
    counter.on_assigned(ShardAttempt(0, number=1))
    counter.forget_actor(0)
    progress = counter.current(1, 1, DeathCounts(), ())
    assert (progress.measures.slots, progress.measures.slots_used, progress.measures.steps) == (8, 6, 1000)
    assert progress.measures.step_s == 40.0
    assert (progress.failures, progress.retries) == ((("melody", 2),), 1)


def test_a_port_and_a_file_give_the_same_text(tmp_path: Path) -> None:
    port, file = free_port(), tmp_path / "musicgen.prom"
    with export_metrics(MetricsSettings(file=str(file), port=port), "r1-1", to_ray=False) as export:
        export(PROGRESS)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
            assert reply.read().decode() == file.read_text() == format_metrics("r1-1", PROGRESS)
        taken = MetricsSettings(port=port)
        with pytest.raises(JobError, match=f"metrics.port {port}"), export_metrics(taken, "r1-1", to_ray=False):
            pass
        export(Progress(100, 10, made=50))  # not due yet
    assert 'musicgen_clips_total{run="r1-1"} 50\n' in file.read_text(), "the last progress is there at the end"
    assert 'musicgen_failures_total{run="r1-1",class="melody"} 1' in format_metrics("r1-1", PROGRESS)
    missing = MetricsSettings(file=str(tmp_path / "nowhere/file"))
    with pytest.raises(JobError, match="cannot be written"), export_metrics(missing, "r1-1", to_ray=False):
        pass


def list_queries() -> list[str]:
    """The queries of the dashboard's panels, for any run."""
    document = json.loads(DASHBOARD.read_text())
    return [target["expr"] for panel in document["panels"] for target in panel["targets"]]


def test_the_dashboard_shows_every_metric() -> None:
    document = json.loads(DASHBOARD.read_text())
    panels = document["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({panel["title"] for panel in panels}) == len(panels)
    queries = " ".join(list_queries())
    for metric in METRICS:
        assert metric.name in queries


@pytest.mark.slow
def test_its_queries_have_answers_on_a_real_prometheus(tmp_path: Path) -> None:
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not installed (Debian's package of this name)")
    port, own_port = free_port(), free_port()
    (tmp_path / "prometheus.yml").write_text(
        "global: {scrape_interval: 1s, evaluation_interval: 1s}\n"
        f"scrape_configs: [{{job_name: musicgen, static_configs: [{{targets: ['127.0.0.1:{port}']}}]}}]\n"
    )
    command = ["prometheus", f"--config.file={tmp_path / 'prometheus.yml'}", f"--storage.tsdb.path={tmp_path / 'data'}"]
    command.append(f"--web.listen-address=127.0.0.1:{own_port}")
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT) as server,
        export_metrics(MetricsSettings(port=port), "r1-1", to_ray=False) as export,
    ):
        try:
            began_at = time.monotonic()
            unanswered = list_queries()
            while unanswered and time.monotonic() - began_at < 60:
                audio_s = 50 * (time.monotonic() - began_at)
                export(replace(PROGRESS, audio_s=audio_s))
                time.sleep(1)
                unanswered = [query for query in unanswered if not ask_prometheus(own_port, query)]
            assert unanswered == []
        finally:
            server.terminate()


@pytest.mark.slow
def test_ray_gives_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    settings = ClusterSettings(actors=1, cpus_per_actor=1)
    with join_cluster(settings), export_metrics(MetricsSettings(), "r1-1", to_ray=True) as export:
        (node,) = ray.nodes()
        address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        missing = {f"ray_{metric.name}" for metric in METRICS}
        deadline = time.monotonic() + 120
        while missing:
            assert time.monotonic() < deadline, missing
            export(PROGRESS)
            time.sleep(1)
            with suppress(OSError), urllib.request.urlopen(address, timeout=10) as reply:
                lines = [line for line in reply.read().decode().splitlines() if 'run="r1-1"' in line]
                missing -= {line.partition("{")[0] for line in lines}
        (clips,) = [line.rpartition(" ")[2] for line in lines if line.startswith("ray_musicgen_clips_total{")]
        assert float(clips) == PROGRESS.made


def ask_prometheus(port: int, query: str) -> list[object]:
    """The series that a query has now; Grafana's variables are filled in as it does. A wrong query fails the test."""
    text = query.replace("$__rate_interval", "10s").replace("$run", ".*")
    url = f"http://127.0.0.1:{port}/api/v1/query?{urllib.parse.urlencode({'query': text})}"
    try:
        with urllib.request.urlopen(url, timeout=10) as reply:
            document = json.load(reply)
    except urllib.error.HTTPError as error:
        pytest.fail(f"{query}: {error.read().decode()}") if error.code == 400 else None
        return []
    except OSError:
        return []
    assert document["status"] == "success"
    return document["data"]["result"]
