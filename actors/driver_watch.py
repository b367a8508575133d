"""Keeps two drivers of one run from making the same shards.

Which commit of a shard counts is decided by the store alone; this only saves work. Each driver has a token in the
store, writes into it which shards it is making and which it will take next, and rewrites it every few seconds, so that
a token that stays the same belongs to a driver that has ended. While there is another driver, a shard is taken only
after it was claimed, and no other token claimed it.
"""

import socket
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime

from actors.messages import Progress
from musicgen.dataset import paths
from musicgen.dataset.driver_token import DriverToken
from musicgen.dataset.pause import Pause, read_pause
from musicgen.errors import StoreError
from musicgen.process_name import has_ended, name_this_process
from musicgen.run_plan import format_time
from musicgen.storage import Store

_ALONE_INTERVAL_S = 5.0
_SHARED_INTERVAL_S = 2.0  # also before the first actor is ready
_SHORTEST_INTERVAL_S = 0.2  # while shards are to be claimed
_SILENT_AFTER_S = 45.0  # a token that has not changed for so long belongs to no living driver
_BLIND_S = 10.0  # how long shards wait for the first look at the store
_END_WAIT_S = 5.0
_PAUSE_INTERVAL_S = 5.0  # between two looks for a pause


class DriverWatch:
    """This driver's token, and what the tokens of others say. Its store calls are made in a thread of its own."""

    def __init__(self, store: Store, run: str, driver: str):
        self.committed: frozenset[int] = frozenset()  # shards, as seen last; looked at only beside another driver
        self.claimed_elsewhere: frozenset[int] = frozenset()
        self.progress: Progress | None = None  # goes into the token, for those who watch the run
        self.pause: Pause | None = None  # as seen last
        self._store, self._run, self._driver = store, run, driver
        self._path = paths.driver_token(run, driver)
        self._folder = self._path.rpartition("/")[0]
        self._may_take: frozenset[int] | None = frozenset()  # None: any shard, because there is no other driver
        self._blind_until = time.monotonic() + _BLIND_S
        self._working: tuple[int, ...] = ()
        self._wanted: tuple[int, ...] = ()
        self._seen: dict[str, tuple[str, float]] = {}  # token of another driver -> its ETag, and when that changed
        self._ended_drivers: set[str] = set()  # tokens of processes of this machine that have ended
        self._token = DriverToken(
            host=socket.gethostname(), started_at=format_time(datetime.now(UTC)), process=name_this_process()
        )
        self._next_listing_at = self._next_pause_look_at = 0.0
        self._wake, self._ended = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run_cycles, name="driver watch", daemon=True)

    def start(self) -> None:
        """Write the token, by which actors find out that they see the same store. Raises `StoreError`."""
        self._write_token(())
        self._thread.start()

    def close(self) -> None:
        """Delete the token; a store that does not answer is not waited for."""
        self._ended.set()
        self._wake.set()
        self._thread.join(_END_WAIT_S)

    def may_take(self, shard: int) -> bool:
        """Whether no other driver is making the shard."""
        mine = self._may_take  # the thread may set it meanwhile
        return mine is None or (not self._seen and time.monotonic() > self._blind_until) or shard in mine

    def propose(self, working: Sequence[int], wanted: Sequence[int]) -> None:
        """Say which shards this driver is making or has to repeat, and which it will take next."""
        proposal = (tuple(working), tuple(wanted))
        if proposal != (self._working, self._wanted):
            self._working, self._wanted = proposal
            if self._may_take is not None:
                self._wake.set()

    def _run_cycles(self) -> None:
        while not self._ended.is_set():
            with suppress(Exception):  # a store that cannot be used is waited for by those who need it
                self._look()
                self._look_for_pause()
            self._ended.wait(_SHORTEST_INTERVAL_S)
            self._wake.wait(_ALONE_INTERVAL_S if self._may_take is None and self._working else _SHARED_INTERVAL_S)
            self._wake.clear()
        with suppress(StoreError, OSError):
            self._store.delete(self._path)

    def _look(self) -> None:
        others = self._find_living_drivers()
        working, wanted = self._working, self._wanted
        if not others:
            self._may_take, self.claimed_elsewhere = None, frozenset()
            self._write_token([*working, *wanted] if working else working)
            return
        mine = self._may_take or frozenset()
        claims = self._read_claims(others)
        taken = frozenset(shard for shards in claims.values() for shard in shards)
        mine = frozenset(shard for shard in wanted if shard in mine or shard not in taken)
        self._write_token([*working, *mine])
        claims = self._read_claims(others)  # both may have claimed a shard at one moment
        lost = {shard for driver, shards in claims.items() if driver < self._driver for shard in shards}
        kept = self._may_take or frozenset()
        self._may_take = frozenset(shard for shard in mine if shard in kept or shard not in lost)
        self.claimed_elsewhere = frozenset(shard for shards in claims.values() for shard in shards)
        self._list_commits()

    def _look_for_pause(self) -> None:
        """Read whether the dataset is paused: one request, every few seconds at most."""
        now = time.monotonic()
        if now >= self._next_pause_look_at:
            self.pause = read_pause(self._store)
            self._next_pause_look_at = now + _PAUSE_INTERVAL_S

    def _find_living_drivers(self) -> list[str]:
        """Return the tokens of other drivers that changed a short while ago, or are new."""
        now = time.monotonic()
        seen: dict[str, tuple[str, float]] = {}
        for token in self._store.list(self._folder):
            if token.path == self._path or token.path in self._ended_drivers:
                continue
            etag, changed_at = self._seen.get(token.path, ("", now))
            seen[token.path] = (token.etag, changed_at if etag == token.etag else now)
        self._seen = seen
        return [path for path, (_, changed_at) in seen.items() if now - changed_at < _SILENT_AFTER_S]

    def _read_claims(self, tokens: Sequence[str]) -> dict[str, tuple[int, ...]]:
        claims: dict[str, tuple[int, ...]] = {}
        for path in tokens:
            with suppress(
                FileNotFoundError, ValueError, KeyError, TypeError
            ):  # it has just ended, or is another version
                token = DriverToken.from_json(self._store.read(path))
                if has_ended(token.process):
                    self._ended_drivers.add(path)
                    continue
                claims[path.rpartition("/")[2]] = token.shards
        return claims

    def _write_token(self, shards: Sequence[int]) -> None:
        self._token = replace(
            self._token,
            shards=tuple(shards),
            progress={} if (progress := self.progress) is None else asdict(progress),
            writes=self._token.writes + 1,
            written_at=format_time(datetime.now(UTC)),
        )
        self._store.write(self._path, self._token.to_json())

    def _list_commits(self) -> None:
        """List the run's index parts; a long list less often."""
        begun_at = time.monotonic()
        if begun_at < self._next_listing_at:
            return
        parts = (paths.parse_index_part(info.path) for info in self._store.list(paths.index_folder(self._run)))
        self.committed = frozenset(part[1] for part in parts if part is not None)
        ended_at = time.monotonic()
        self._next_listing_at = ended_at + 10 * (ended_at - begun_at)
