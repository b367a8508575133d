"""Reads an object of a dataset as a whole, and tells damage from a store that cannot be used at the moment."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from musicgen.errors import StoreDenied, StoreError, StoreFull, StoreUnavailable
from musicgen.own_checksum import State, check_json, check_parquet
from musicgen.storage import Store
from musicgen.storage.patience import SHORT_PATIENCE_S, wait_for_store

_CHUNK = 8 << 20


def read_patiently(store: Store, path: str, start: int = 0, length: int | None = None) -> bytes:
    """Read as `Store.read` does, and wait for a store that cannot be used; then raise its `StoreUnavailable`."""
    return wait_for_store(lambda: store.read(path, start, length), SHORT_PATIENCE_S)


@contextmanager
def open_whole(store: Store, path: str, folder: Path) -> Iterator[BinaryIO]:
    """Open an object that is read more than once: one of a bucket as a copy in the local `folder`.

    Waits for a store that cannot be used. Raises `FileNotFoundError` if there is no such object.
    """
    if store.location.scheme == "file":
        with store.open(path) as file:
            yield file
        return
    copy = folder / "object"

    def fetch() -> None:
        with store.open(path) as source, copy.open("wb") as target:
            shutil.copyfileobj(source, target, _CHUNK)

    wait_for_store(fetch, SHORT_PATIENCE_S)
    try:
        with copy.open("rb") as file:
            yield file
    finally:
        copy.unlink(missing_ok=True)


@contextmanager
def open_whole_if_there(store: Store, path: str, folder: Path) -> Iterator[BinaryIO | None]:
    """Open an object as `open_whole` does; None if there is no such object, or it is replaced meanwhile."""
    with ExitStack() as stack:
        try:
            file = stack.enter_context(open_whole(store, path, folder))
        except (StoreUnavailable, StoreDenied, StoreFull):
            raise
        except (FileNotFoundError, StoreError):
            file = None
        yield file


def describe_json_damage(content: bytes, is_required: bool) -> str | None:
    """Say in which way a JSON document is not what was written; None if it is. See `describe_damage`."""
    return describe_damage(check_json(content), is_required)


def describe_parquet_damage(file: BinaryIO, is_required: bool) -> str | None:
    """Say in which way a Parquet file is not what was written; None if it is. See `describe_damage`."""
    return describe_damage(check_parquet(file), is_required)


def describe_damage(state: State, is_required: bool) -> str | None:
    """Say what is wrong with a file by its own checksum. `is_required`: files of this dataset have one."""
    if state == "wrong":
        return "its bytes are not those that its checksum was made of"
    return "its checksum is damaged" if state == "absent" and is_required else None
