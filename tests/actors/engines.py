"""Engines with faults: the real one on a small checkpoint, with the fault that a prompt names.

Actors import this module by name, so it must be importable in their processes.
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

from actors.actor_config import ActorConfig
from actors.generator import load_engine
from musicgen.errors import StoreError
from musicgen.request import Request
from musicgen.unfinished_clips import UnfinishedClips


class FaultyEngine:
    """An engine that aborts its process or raises, if the prompt says so."""

    def __init__(self, engine: Any):
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def add(self, request: Request) -> None:
        if "abort" in request.prompt:
            os.abort()
        if "raise" in request.prompt:
            raise ZeroDivisionError("the engine divided by zero")
        self._engine.add(request)


class SlowEngine(FaultyEngine):
    """An engine with slow steps, so that a test can make a fault meanwhile."""

    def step(self) -> Any:
        time.sleep(0.15)
        return self._engine.step()


def make_faulty(config: ActorConfig) -> Any:
    return FaultyEngine(load_engine(config))


def make_slow(config: ActorConfig) -> Any:
    return SlowEngine(load_engine(config))


def end_process(config: ActorConfig) -> Any:
    os._exit(7)


def raise_os_error(config: ActorConfig) -> Any:
    raise OSError("libcudart.so.12: cannot open shared object file")


def raise_store_error(config: ActorConfig) -> Any:
    raise StoreError("s3://bucket: 503 Slow Down")


def raise_store_error_once(config: ActorConfig) -> Any:
    marker = Path(f"{config.output}.store-failed")
    if not marker.exists():
        marker.touch()
        raise StoreError("s3://bucket: 503 Slow Down")
    return load_engine(config)


class ScriptedEngine:
    """An engine without a model: each step finishes one request, when `may_step` is set."""

    fingerprint = "scripted"

    def __init__(self, slots: int = 2, make: Callable[[Request], Any] | None = None):
        self.slots, self.steps, self.has_made_clips = slots, 0, False
        self.held: list[Request] = []
        self.max_held = 0
        self.idle_while_waiting = 0
        self.may_step = threading.Event()
        self.may_step.set()
        self.make = make

    @property
    def room(self) -> int:
        return self.slots - len(self.held)

    @property
    def busy(self) -> bool:
        return bool(self.held)

    def add(self, request: Request) -> None:
        self.held.append(request)
        self.max_held = max(self.max_held, len(self.held))

    def step(self) -> list[Any]:
        self.may_step.wait()
        self.idle_while_waiting += len(self.held) < self.slots
        self.steps += 1
        self.has_made_clips = self.make is not None
        return [self.make(self.held.pop(0))] if self.make else []

    def measure_unfinished(self) -> UnfinishedClips:
        return UnfinishedClips()

    def close(self) -> None:
        """Nothing to stop."""


class CountingEngine(FaultyEngine):
    """A slow engine that leaves a file for each row that it is given."""

    def __init__(self, engine: Any, folder: Path):
        super().__init__(engine)
        self._folder = folder

    def add(self, request: Request) -> None:
        (self._folder / uuid4().hex).write_text(request.prompt)
        self._engine.add(request)

    def step(self) -> Any:
        time.sleep(0.05)
        return self._engine.step()


def make_counting(config: ActorConfig) -> Any:
    folder = Path(f"{config.output}.rows")
    folder.mkdir(exist_ok=True)
    return CountingEngine(load_engine(config), folder)


class DyingEngine(FaultyEngine):
    """An engine whose process ends at the first step, whatever the row."""

    def step(self) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)


def make_dying(config: ActorConfig) -> Any:
    return DyingEngine(load_engine(config))


class CrampedEngine(FaultyEngine):
    """An engine that finds too little memory at a step, if it has more than two slots: it halves them itself."""

    def __init__(self, engine: Any):
        super().__init__(engine)
        self._may_run = 40

    def step(self) -> Any:
        if self._engine.slots > 2 and self._engine.steps > self._may_run:
            self._engine._shrink()
        return self._engine.step()


def make_cramped(config: ActorConfig) -> Any:
    return CrampedEngine(load_engine(config))
