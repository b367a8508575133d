"""The gate that `musicgen gc` puts up while it deletes, so that no run begins meanwhile.

A gate has a number, the next one, and is put only if absent; it stands until a second object says that its gc has
ended. Neither is ever changed or deleted, so no request that arrives late can take down the gate of another gc.

`gc` puts its gate and then looks for unfinished runs; a planner puts its plan and then looks for a gate. Whichever is
later sees the other, and stops. `musicgen repair --other-bits` puts up a gate too, because it writes audio under names
that nothing names yet: gc and it keep each other out, and runs go on.
"""

import json
import os
import socket
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from uuid import uuid4

from musicgen.dataset import paths
from musicgen.errors import JobError
from musicgen.own_checksum import dump_json
from musicgen.run_plan import format_time
from musicgen.storage import Store


@dataclass(frozen=True, slots=True)
class Gate:
    """Whose gate stands, and since when: ISO 8601, UTC, by the clock of that machine."""

    number: int
    host: str = ""
    process: int = 0
    since: str = ""
    command: str = "gc"
    mark: str = ""  # makes its content its own

    def __str__(self) -> str:
        return f"process {self.process} on {self.host or 'an unknown machine'}, since {self.since or 'an unknown time'}"


def find_gate(store: Store) -> Gate | None:
    """Return the gate that stands; None if there is none. Takes one listing."""
    number, _ = _find_last(store)
    if number is None:
        return None
    try:
        document = json.loads(store.read(paths.gate(number)))
        command = str(document.get("command", "gc"))
        return Gate(number, str(document["host"]), int(document["process"]), str(document["since"]), command)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return Gate(number)


def _find_last(store: Store) -> tuple[int | None, int]:
    """Return the number of the gate that stands, if one does, and the last number that was used."""
    gates: set[int] = set()
    released: set[int] = set()
    for file_info in store.list(paths.COLLECTIONS):
        if (parsed := paths.parse_gate(file_info.path)) is not None:
            (released if parsed[1] else gates).add(parsed[0])
    last = max(gates, default=0)
    return (last if last and last not in released else None), last


def put_gate(store: Store, command: str = "gc") -> Gate:
    """Put up a gate of this command. Raises `JobError` if one stands."""
    _refuse(store, find_gate(store))
    _, last = _find_last(store)
    gate = Gate(last + 1, socket.gethostname(), os.getpid(), format_time(datetime.now(UTC)), command, uuid4().hex)
    if not store.commit_if_absent(paths.gate(gate.number), dump_json(asdict(gate))):
        _refuse(store, find_gate(store))
        raise JobError(f"{store.uri}: another `musicgen {command}` was at work until now; run again")
    return gate


def release_gate(store: Store, gate: Gate) -> None:
    """Say that the command has ended, so that runs, and others of its kind, can begin again."""
    store.put_if_absent(paths.released_gate(gate.number), dump_json({"at": format_time(datetime.now(UTC))}))


def refuse_gate(store: Store) -> None:
    """Raise `JobError` if a gate of `gc` stands."""
    gate = find_gate(store)
    _refuse(store, gate if gate is not None and gate.command == "gc" else None)


def _refuse(store: Store, gate: Gate | None) -> None:
    if gate is not None:
        work = "deleting what no run needs" if gate.command == "gc" else "writing clips in the place of others"
        raise JobError(
            f"{store.uri}: `musicgen {gate.command}` is {work} ({gate}); run again when it has ended, or, if "
            f"it was killed, release the dataset first: musicgen gc {store.uri} --release"
        )
