"""How each kind of fault is made, and how it ends."""

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import psutil

from tests.faults.fault import Mode
from tests.faults.scene import Injector, Scene
from tests.faults.schedule import Event
from tests.faults.store_injectors import ServerFault, StoreFault, StoreRefused


@dataclass
class ActorFault:
    """An actor is killed, or stopped and continued."""

    signal: signal.Signals
    hits: int = 0
    _pid: int = 0

    def begin(self, scene: Scene) -> bool:
        actors = scene.bench.ray.find_actors()
        if not actors:
            return False
        self._pid = scene.rng.choice(sorted(actor.pid for actor in actors))
        _signal(self._pid, self.signal)
        self.hits += 1
        return True

    def end(self, scene: Scene) -> None:
        if self.signal == signal.SIGSTOP:
            _signal(self._pid, signal.SIGCONT)


@dataclass
class NodeFault:
    """A node with an actor is lost, whole or its raylet only, or its raylet is stopped for a while."""

    kind: str
    hits: int = 0
    _raylet: int = 0

    def begin(self, scene: Scene) -> bool:
        ray = scene.bench.ray
        parents = {_parent(actor) for actor in ray.find_actors()}
        used = [raylet for raylet in ray.raylets if raylet in parents]
        if not used or not ray.lives:
            return False
        self._raylet = scene.rng.choice(used)
        if self.kind == "raylet_stop":
            _signal(self._raylet, signal.SIGSTOP)
        else:
            ray.kill_node(self._raylet, whole=self.kind == "node_kill")
        self.hits += 1
        return True

    def end(self, scene: Scene) -> None:
        if self.kind == "raylet_stop":
            _signal(self._raylet, signal.SIGCONT)
        elif scene.bench.ray.lives:
            scene.bench.ray.add_node()


@dataclass
class GcsKill:
    """Ray's head loses its GCS, which nothing brings back."""

    hits: int = 0

    def begin(self, scene: Scene) -> bool:
        _signal(scene.bench.ray.gcs, signal.SIGKILL)
        self.hits += 1
        return True

    def end(self, scene: Scene) -> None:
        """The bench starts a new cluster."""


@dataclass
class DriverFault:
    """The driver is killed, told to end, or stopped and continued."""

    kind: str
    hits: int = 0

    def begin(self, scene: Scene) -> bool:
        driver = scene.driver
        if self.kind == "driver_stop":
            driver.pause()
        else:
            _signal(driver.process.pid, signal.SIGKILL if self.kind == "driver_kill" else signal.SIGTERM)
        self.hits += 1
        return True

    def end(self, scene: Scene) -> None:
        if self.kind == "driver_stop":
            scene.driver.go_on()


@dataclass
class AnotherDriver:
    """A second driver of the same job, or a job that supersedes it, starts."""

    supersede: bool
    hits: int = 0

    def begin(self, scene: Scene) -> bool:
        scene.start_driver(self.supersede)
        self.hits += 1
        return True

    def end(self, scene: Scene) -> None:
        """It ends by itself."""


@dataclass
class FullDisk:
    """The output's disk is too small from the start; it grows when the driver has ended."""

    hits: int = 0

    def begin(self, scene: Scene) -> bool:
        self.hits += 1
        return True

    def end(self, scene: Scene) -> None:
        """The disk grows before the job runs again."""


def make_injector(event: Event) -> Injector:
    """The injector of an event."""
    store_faults: dict[str, tuple[Mode, int, str]] = {
        "store_503": ("status", 503, "SlowDown"),
        "store_403": ("status", 403, "AccessDenied"),
        "store_409": ("status", 409, "ConditionalRequestConflict"),
    }
    modes: dict[str, Mode] = {
        "store_reset": "reset",
        "store_cut": "cut_reply",
        "store_stall": "stall_reply",
        "store_lost_reply": "drop_reply",
        "store_hung_reply": "hang_reply",
        "store_throttle": "throttle",
        "store_swallow": "swallow",
        "store_swallow_body": "swallow_body",
    }
    kind = event.kind
    if kind in store_faults:
        return StoreFault(event, *store_faults[kind])
    if kind in modes:
        return StoreFault(event, modes[kind])
    others: dict[str, Callable[[], Injector]] = {
        "store_refused": StoreRefused,
        "store_kill": lambda: ServerFault("store", signal.SIGKILL),
        "store_stop": lambda: ServerFault("store", signal.SIGSTOP),
        "prefect_kill": lambda: ServerFault("prefect", signal.SIGKILL),
        "prefect_stop": lambda: ServerFault("prefect", signal.SIGSTOP),
        "actor_kill": lambda: ActorFault(signal.SIGKILL),
        "actor_stop": lambda: ActorFault(signal.SIGSTOP),
        "gcs_kill": GcsKill,
        "second_driver": lambda: AnotherDriver(supersede=False),
        "superseding_job": lambda: AnotherDriver(supersede=True),
        "small_disk": FullDisk,
        **{name: lambda: NodeFault(kind) for name in ("node_kill", "raylet_kill", "raylet_stop")},
        **{name: lambda: DriverFault(kind) for name in ("driver_kill", "driver_term", "driver_stop")},
    }
    return others[kind]()


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _parent(process: psutil.Process) -> int:
    with suppress(psutil.Error):
        return int(process.ppid())
    return 0
