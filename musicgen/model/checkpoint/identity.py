"""A checkpoint's identity: a hash of its configs, tokenizer and weights, not of its name or place.

The identity is part of every clip's key, so the same weights under another name, in another folder or bucket, are the
same model.
"""

import hashlib
import os
import tempfile
from contextlib import suppress
from pathlib import Path

from musicgen.errors import ModelError
from musicgen.model.checkpoint.weights import weight_files

_VERSION = "1"
# Files besides weights that decide how text becomes tokens and sound becomes chroma.
PROCESSOR_FILES = (
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "spiece.model",
    "vocab.json",
    "merges.txt",
)
_SMALL_FILES = ("config.json", *PROCESSOR_FILES)
# The files that are fetched from a hub or bucket: the same, and nothing pickled.
CHECKPOINT_FILE_PATTERNS = (*_SMALL_FILES, "model.safetensors", "model-*.safetensors", "model.safetensors.index.json")


def cache_folder() -> Path:
    """Return the folder for what is made once (staged checkpoints, hashes, compiled kernels, Prefect's empty database):
    `MUSICGEN_CACHE`, else the user's cache folder.

    Raises `ModelError` if the user has no home.
    """
    own = os.environ.get("MUSICGEN_CACHE")
    if own:
        return Path(own).expanduser()
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "musicgen-batch"
    except RuntimeError:
        raise ModelError(
            "this user has no home folder: say with MUSICGEN_CACHE where checkpoints may be kept"
        ) from None


def checkpoint_identity(folder: Path) -> str:
    """Compute the sha256 (hex) over names and contents of the checkpoint's configs, tokenizer and weights.

    A file's hash is remembered by its path, size and modification time. Raises `ModelError` if weights are missing.
    """
    files = [folder / name for name in _SMALL_FILES if (folder / name).is_file()] + weight_files(folder)
    digest = hashlib.sha256(f"musicgen checkpoint {_VERSION}\n".encode())
    for path in sorted(files, key=lambda file: file.name):
        digest.update(f"{path.name} {file_sha256(path.resolve())}\n".encode())
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """Compute the sha256 (hex) of a file; it is remembered by its path, size and modification time."""
    stat = path.stat()
    file_state = f"{path}\n{stat.st_size}\n{stat.st_mtime_ns}\n{stat.st_ino}"
    note = cache_folder() / "sha256" / hashlib.sha256(file_state.encode()).hexdigest()
    with suppress(OSError):
        known = note.read_text(encoding="ascii")
        if len(known) == 64:
            return known
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    with suppress(OSError):  # in a read-only home the file is hashed again next time
        _write_atomically(note, digest)
    return digest


def _write_atomically(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(text)
        os.replace(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise
