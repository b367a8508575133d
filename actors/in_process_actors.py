"""An actor in the driver's own process, for `cluster.address: none`: the same generator, called in threads.

A row that ends its process ends the run with it. Nothing is lost: what is committed stays, and the same command goes
on; but only Ray's actors find such a row and record it.
"""

import os
import platform
import threading
import time
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue

from actors.actor_config import ActorConfig, EngineFactory
from actors.actor_replies import CallFailed, PendingCall
from actors.generator import Generator
from actors.messages import ActorsFailed, ShardAttempt, StartedActor

_STALL_WAIT_S = 30.0  # for the step that a generation thread is in
_IDLE_WAIT_S = 5.0  # for a generation thread without work


class InProcessActors:
    """See `actors.actor_replies.ActorGroup`. The dispatcher has one actor at a time here."""

    def __init__(self, config: ActorConfig, make_engine: EngineFactory):
        self._config, self._make_engine = config, make_engine
        self._generators: dict[int, Generator] = {}
        self._replies: SimpleQueue[tuple[PendingCall, object]] = SimpleQueue()
        self._making = 0  # attempts
        self._stands_still = False

    def start(self, actor: int, avoid: frozenset[str]) -> None:
        """Load a model in another thread. Raises `ActorsFailed` if the last actor could not be ended."""
        if self._stands_still:
            raise ActorsFailed(
                "generation stands still, and in one process it cannot be ended alone; what is committed is safe, run "
                "the same job again to go on (cluster.address=local has a process for each actor)"
            )
        self._generators[actor] = generator = Generator(self._config, self._make_engine)
        self._replies.put((PendingCall("report_start", actor), StartedActor("", platform.node(), os.getpid())))
        self._call(PendingCall("load_model", actor), generator.load_model)

    def assign(self, actor: int, attempt: ShardAttempt) -> None:
        """See `ActorGroup`."""
        generator = self._generators[actor]
        self._making += 1
        self._call(PendingCall("make_shard", actor, attempt), lambda: generator.make_shard(attempt))

    def ask_heartbeat(self, actor: int) -> None:
        """See `ActorGroup`."""
        self._call(PendingCall("heartbeat", actor), self._generators[actor].heartbeat)

    def end(self, actor: int) -> None:
        """Stop the actor's generation; waits for the step that it is in."""
        generator = self._generators.pop(actor, None)
        if generator is not None and not generator.close(_STALL_WAIT_S):
            self._stands_still = True

    def end_all(self, commit_wait_s: float) -> None:
        """See `ActorGroup`. After an interruption, threads that are still at work are left behind."""
        deadline = time.monotonic() + commit_wait_s
        while self._making and time.monotonic() < deadline:
            time.sleep(0.02)
        for generator in self._generators.values():
            generator.close(0.0 if commit_wait_s else _IDLE_WAIT_S)
        self._generators.clear()

    def collect_replies(self, timeout_s: float) -> Iterator[tuple[PendingCall, object]]:
        """See `ActorGroup`."""
        wait_s = timeout_s
        while True:
            try:
                call, reply = self._replies.get(timeout=wait_s) if wait_s else self._replies.get_nowait()
            except Empty:
                return
            wait_s = 0.0
            if call.actor in self._generators:
                yield call, reply

    def _call(self, call: PendingCall, work: Callable[[], object]) -> None:
        """Call it in a thread of its own, which an interpreter that ends does not wait for."""

        def run() -> None:
            try:
                reply = work()
            except Exception as error:
                reply = CallFailed(error)
            if call.method == "make_shard":
                self._making -= 1
            self._replies.put((call, reply))

        threading.Thread(target=run, name=call.method, daemon=True).start()


class OneProcessWatch:
    """See `actors.actor_replies.NodeWatch`: there is no other machine, and this process lives."""

    usable_nodes: frozenset[str] = frozenset()
    head_lost_s = 0.0

    def __init__(self) -> None:
        self.hosts: dict[str, str] = {}

    def start(self) -> None:
        """Nothing is to be watched."""

    def close(self) -> None:
        """Nothing was started."""

    def check(self) -> None:
        """Nothing has ended."""

    def is_alive(self, node: str) -> bool:
        """Whether this process lives."""
        return True
