"""Faults of the servers that are reached by HTTP: the store and Prefect."""

import signal
from dataclasses import dataclass

from tests.faults.fault import Fault, Mode
from tests.faults.scene import Scene
from tests.faults.schedule import TARGETS, Event


@dataclass
class StoreFault:
    """A fault of the proxy."""

    event: Event
    mode: Mode
    status: int = 503
    code: str = "SlowDown"
    _fault: Fault | None = None

    @property
    def hits(self) -> int:
        """Requests that it has hit."""
        return self._fault.hits if self._fault else 0

    def begin(self, scene: Scene) -> bool:
        pattern, event = TARGETS[self.event.target], self.event
        seconds = event.seconds or None
        fault = Fault(self.mode, pattern, event.count, 0, seconds, self.status, self.code, bytes_per_s=4e3)
        self._fault = scene.bench.proxy.add(fault)
        return True

    def end(self, scene: Scene) -> None:
        """It ends by itself."""


@dataclass
class StoreRefused:
    """The store's port refuses connections."""

    hits: int = 0

    def begin(self, scene: Scene) -> bool:
        scene.bench.proxy.stop_listening()
        self.hits += 1
        return True

    def end(self, scene: Scene) -> None:
        if not scene.bench.proxy.is_listening:
            scene.bench.proxy.listen()


@dataclass
class ServerFault:
    """The store or Prefect is killed, or stopped and continued; a killed store is started again."""

    name: str
    signal: signal.Signals
    hits: int = 0

    def begin(self, scene: Scene) -> bool:
        server = scene.bench.store if self.name == "store" else scene.bench.prefect
        server.send_signal(self.signal)
        self.hits += 1
        return True

    def end(self, scene: Scene) -> None:
        server = scene.bench.store if self.name == "store" else scene.bench.prefect
        if self.signal == signal.SIGSTOP:
            server.go_on()
        elif self.name == "store":
            server.start()
