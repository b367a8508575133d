"""Gives a run's metrics to those who collect them: Ray's own metrics, a text file, a port.

None of them can hold the run up or end it, but for a file or a port that cannot be used at the start.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from actors.messages import Progress
from actors.metrics import METRICS, format_metrics, list_values
from musicgen.cluster_settings import MetricsSettings
from musicgen.errors import JobError

_INTERVAL_S = 5.0
_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@contextmanager
def export_metrics(settings: MetricsSettings, run: str, to_ray: bool) -> Iterator[Callable[[Progress], None]]:
    """Return what takes the run's progress, as often as there is any. Raises `JobError` for a wrong file or port."""
    exporter = _Exporter(settings, run, to_ray)
    try:
        yield exporter.update
    finally:
        exporter.close()


class _Exporter:
    """Keeps the latest progress, and passes it on every few seconds, and at the end."""

    def __init__(self, settings: MetricsSettings, run: str, to_ray: bool):
        self._run = run
        self._latest = Progress(0, 0)
        self._next_at = 0.0
        self._file = Path(settings.file) if settings.file is not None else None
        self._ray = _RayMetrics(run) if to_ray else None
        self._server: ThreadingHTTPServer | None = None
        if self._file is not None:
            try:
                self._write_file(self._file)
            except OSError as error:
                raise JobError(f"metrics.file {self._file} cannot be written: {error.strerror}") from None
        if settings.port is not None:
            self._server = self._serve(settings.host, settings.port)

    def update(self, progress: Progress) -> None:
        """Take the progress, and pass it on if that is due."""
        self._latest = progress
        now = time.monotonic()
        if now >= self._next_at:
            self._next_at = now + _INTERVAL_S
            self._pass_on()

    def close(self) -> None:
        """Pass the last progress on, and close the port."""
        self._pass_on()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def _pass_on(self) -> None:
        if self._ray is not None:
            with suppress(Exception):  # Ray may be gone
                self._ray.update(self._latest)
        if self._file is not None:
            with suppress(OSError):
                self._write_file(self._file)

    def _write_file(self, path: Path) -> None:
        """Write the file as a whole, so that nobody reads a part of it."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_text(format_metrics(self._run, self._latest))
        temporary.replace(path)

    def _serve(self, host: str, port: int) -> ThreadingHTTPServer:
        exporter = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                """Send the latest numbers."""
                if self.path != "/metrics":
                    self.send_error(404)
                    return
                content = format_metrics(exporter._run, exporter._latest).encode()
                self.send_response(200)
                self.send_header("Content-Type", _TYPE)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:
                """Write nothing to the terminal."""

        try:
            server = ThreadingHTTPServer((host, port), Handler)
        except OSError as error:
            raise JobError(f"metrics.port {port} of {host} cannot be used: {error.strerror}") from None
        threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
        return server


class _RayMetrics:
    """The metrics as Ray's, which its nodes give to Prometheus."""

    def __init__(self, run: str):
        from ray.util.metrics import Counter, Gauge

        self._run = run
        self._counts: dict[tuple[str, str], float] = {}
        kinds = {"counter": Counter, "gauge": Gauge}
        # Ray puts `ray_` before a name, and `_total` after that of a counter.
        self._own = {
            metric.name: kinds[metric.kind](
                metric.name.removesuffix("_total"), metric.help, tuple(filter(None, ("run", metric.label)))
            )
            for metric in METRICS
        }

    def update(self, progress: Progress) -> None:
        """Set gauges, and add to counters what has come since the last call."""
        for metric in METRICS:
            own = self._own[metric.name]
            for labels, value in list_values(metric, progress):
                tags = {"run": self._run, **labels}
                if metric.kind == "gauge":
                    own.set(value, tags)
                    continue
                name = (metric.name, str(labels))
                if (more := value - self._counts.get(name, 0.0)) > 0:
                    own.inc(more, tags)
                    self._counts[name] = value
