"""Copies a model's files from an object store to this node, once."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from musicgen.errors import ModelError, StoreError, first_line
from musicgen.model.checkpoint.identity import cache_folder
from musicgen.storage import open_store

if TYPE_CHECKING:
    from musicgen.storage import FileInfo, Store

ChooseFiles = Callable[[Sequence[str]], Collection[str]]  # of the paths below the folder, those that are wanted


def stage_from_store(uri: str, choose_files: ChooseFiles) -> Path:
    """Copy files of an object-store folder to this node's cache, by one process while the others wait.

    Raises `ModelError`, and whatever `choose_files` raises.
    """
    from filelock import FileLock

    try:
        store = open_store(uri)
        store.check()
        listed = list(store.list())
    except StoreError as error:
        raise ModelError(f"the model {uri} cannot be read: {error}") from error
    chosen = set(choose_files([file.path for file in listed]))
    files = [file for file in listed if file.path in chosen]
    state = "\n".join([store.uri, *(f"{file.path} {file.size} {file.etag}" for file in files)])
    target = cache_folder() / "models" / hashlib.sha256(state.encode()).hexdigest()[:32]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if not target.is_dir():
                _copy_files(store, files, target)
    except (OSError, StoreError) as error:
        raise ModelError(
            f"the model {uri} cannot be copied to {target.parent}: {first_line(error)}; set MUSICGEN_CACHE elsewhere"
        ) from error
    return target


def _copy_files(store: "Store", files: "list[FileInfo]", target: Path) -> None:
    partial = Path(tempfile.mkdtemp(dir=target.parent, prefix=".partial-"))
    try:
        for file in files:
            copy = partial / file.path
            copy.parent.mkdir(parents=True, exist_ok=True)
            with store.open(file.path) as source, copy.open("wb") as sink:
                shutil.copyfileobj(source, sink, 4 << 20)
                sink.flush()
                os.fsync(sink.fileno())  # else a power cut could leave a whole name with half a file behind it
        os.replace(partial, target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
