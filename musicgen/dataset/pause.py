"""The pause of a dataset: while its object is there, drivers stop at their next commit, and no run is begun.

It decides nothing that the commit depends on: a driver that sees it late commits a few shards more.
"""

import getpass
import json
import socket
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from musicgen.dataset import paths
from musicgen.errors import LimitReached
from musicgen.own_checksum import dump_json
from musicgen.run_plan import format_time
from musicgen.storage import Store


@dataclass(frozen=True, slots=True)
class Pause:
    """Who paused the dataset, on which machine, and since when: ISO 8601, UTC, by the clock of that machine."""

    user: str = ""
    host: str = ""
    since: str = ""

    def __str__(self) -> str:
        who = f"{self.user or 'somebody'} on {self.host or 'an unknown machine'}"
        return f"paused by {who} since {self.since or 'an unknown time'}"


def read_pause(store: Store) -> Pause | None:
    """Return the pause of the dataset; None if there is none. One that is damaged counts, without its words."""
    try:
        document = json.loads(store.read(paths.PAUSE))
        return Pause(str(document["user"]), str(document["host"]), str(document["since"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        return Pause()


def put_pause(store: Store) -> Pause | None:
    """Pause the dataset. Returns the pause that was there before, if one was; then nothing is written."""
    pause = Pause(_name_user(), socket.gethostname(), format_time(datetime.now(UTC)))
    if store.put_if_absent(paths.PAUSE, dump_json(asdict(pause))):
        return None
    earlier = read_pause(store)
    return None if earlier == pause else earlier


def end_pause(store: Store) -> Pause | None:
    """Take the pause away. Returns the pause that was there; None if the dataset was not paused."""
    pause = read_pause(store)
    if pause is not None:
        store.delete(paths.PAUSE)
    return pause


def refuse_pause(store: Store) -> None:
    """Raise `LimitReached` if the dataset is paused."""
    if (pause := read_pause(store)) is not None:
        raise LimitReached(f"{store.uri} is {pause}; nothing was started. {describe_resuming(store)}")


def describe_resuming(store: Store) -> str:
    """Say how a run of a paused dataset goes on."""
    return f"To go on: musicgen resume {store.uri}, then run the same job again"


def _name_user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user id without a name, as in a container
        return ""
