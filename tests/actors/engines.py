"""Engines with faults: the real one on a small checkpoint, with the fault that a prompt names.

Actors import this module by name, so it must be importable in their processes.
"""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from actors.actor_config import ActorConfig
from actors.generator import load_engine
from musicgen.errors import StoreError
from musicgen.request import Request


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
        self.slots, self.steps = slots, 0
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
        return [self.make(self.held.pop(0))] if self.make else []

    def close(self) -> None:
        """Nothing to stop."""
