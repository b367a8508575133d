"""Makes an actor's engine with the number of slots that all actors of a run on devices of its name have.

A clip's bits depend on the shapes of the arithmetic, so all of them should have the same number, now and after any
restart. The job says it, or the first actor puts its choice into the store and the others take it. If that turns out to
be too many for the memory, the number is lowered for the actors that start later.
"""

import json
import platform
from dataclasses import replace

from actors.actor_config import ActorConfig, EngineFactory
from actors.messages import NodeFault
from musicgen.dataset import paths
from musicgen.errors import first_line
from musicgen.families.family import GenerationEngine
from musicgen.own_checksum import dump_json
from musicgen.storage import Store
from musicgen.storage.patience import wait_for_store


class AgreedSlots:
    """The number of slots of a run's actors on one kind of device, as the store has it."""

    def __init__(self, store: Store, config: ActorConfig, device: str):
        self.path = paths.slots_file(config.plan.run, device)
        self._store = store
        self._patience_s = config.store_patience_s

    def read(self) -> int | None:
        """Return the number; None as long as nobody has chosen one. Raises `StoreError`."""
        try:
            return wait_for_store(self._read_once, self._patience_s)
        except FileNotFoundError:
            return None

    def _read_once(self) -> int:
        return int(json.loads(self._store.read(self.path))["slots"])

    def propose(self, slots: int) -> int:
        """Choose a number if nobody has, and return the one that counts. Raises `StoreError`."""
        choice = _to_json(slots)
        wait_for_store(lambda: self._store.put_if_absent(self.path, choice), self._patience_s)
        return self.read() or slots

    def lower(self, slots: int) -> None:
        """Lower the number for actors that start from now on. Raises `StoreError`, and waits for no store.

        Two actors may do so at one moment; then either number is kept, and who starts with too many lowers it again.
        """
        if self._read_once() > slots:
            self._store.write(self.path, _to_json(slots))


def make_agreed_engine(config: ActorConfig, make_engine: EngineFactory, agreed: AgreedSlots) -> GenerationEngine:
    """Make the engine.

    Raises `NodeFault` if the model or the agreed slots do not fit into this machine's memory, `StoreError`
    if a store cannot be used for longer than the job's patience.
    """
    if config.slots != "auto":
        return _make_with(config, make_engine, "which cluster.slots demands")
    slots = agreed.read()
    if slots is None:
        engine = _make_with(config, make_engine)
        slots = agreed.propose(engine.slots)
        if slots == engine.slots:
            return engine
        engine.close()
        del engine  # its memory is needed for the next one
    origin = f"which all actors of the run on such a device have ({agreed.path})"
    return _make_with(replace(config, slots=slots), make_engine, origin)


def _to_json(slots: int) -> bytes:
    return dump_json({"slots": slots})


def _make_with(config: ActorConfig, make_engine: EngineFactory, origin: str = "") -> GenerationEngine:
    """Make an engine; `origin` says where its number of slots comes from, if it is given.

    If its checkpoint lies in a store that cannot be used, it waits for it.
    """
    try:
        return wait_for_store(lambda: make_engine(config), config.store_patience_s)
    except (MemoryError, RuntimeError) as error:
        from musicgen.model.memory_errors import is_out_of_memory  # imports torch, which the driver does without

        if not is_out_of_memory(error):
            raise
        reason = first_line(error)
    if config.slots == "auto":
        raise NodeFault(f"{platform.node()} has too little memory for the model: {reason}")
    raise NodeFault(
        f"{platform.node()} has too little memory for {config.slots} slots, {origin}: {reason}; use machines with "
        "more, or set cluster.slots to fewer: their clips are as good, and may differ in bits from those of the "
        "other number (the index column `engine` tells them apart)"
    )
