"""What faults can be aimed at, and what an injector of one is."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from tests.faults.bench import Bench
from tests.faults.terminal import Terminal


@dataclass
class Scene:
    """What a fault can be aimed at: the servers, the job's driver, and the commands that a schedule starts."""

    bench: Bench
    driver: Terminal
    start_driver: Callable[[bool], Terminal]  # True: of the job that supersedes this one
    rng: random.Random


class Injector(Protocol):
    """Makes one fault. `begin` returns False while there is nothing yet that it could hit; it is called again."""

    @property
    def hits(self) -> int:
        """How often it has hit."""

    def begin(self, scene: Scene) -> bool:
        """Make the fault."""

    def end(self, scene: Scene) -> None:
        """End it, after the event's seconds."""
