"""Engines that misbehave: the real one on a small checkpoint, with the fault that a prompt names.

Actors import this module by name, so it is on their path like the packages.
"""

import os
import threading
import time
from collections.abc import Callable
from typing import Any

from actors.generator import Settings, load_engine
from musicgen.request import Request


class Faulty:
    """An engine that does what the prompts say."""

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


class Slow(Faulty):
    """Takes its time, so that a fault can be made meanwhile."""

    def step(self) -> Any:
        time.sleep(0.15)
        return self._engine.step()


def faulty(settings: Settings) -> Any:
    return Faulty(load_engine(settings))


def slow(settings: Settings) -> Any:
    return Slow(load_engine(settings))


def ends_its_process(settings: Settings) -> Any:
    os._exit(7)


def raises(settings: Settings) -> Any:
    raise OSError("libcudart.so.12: cannot open shared object file")


class Scripted:
    """No model at all: each step finishes one request, when `may_step` is set. For tests of the feed."""

    fingerprint = "scripted"

    def __init__(self, slots: int = 2, make: Callable[[Request], Any] | None = None):
        self.slots, self.steps = slots, 0
        self.held: list[Request] = []
        self.most = 0
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
        self.most = max(self.most, len(self.held))

    def step(self) -> list[Any]:
        self.may_step.wait()
        self.idle_while_waiting += len(self.held) < self.slots
        self.steps += 1
        return [self.make(self.held.pop(0))] if self.make else []

    def close(self) -> None:
        """Nothing to stop."""
