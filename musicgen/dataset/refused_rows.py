"""Hashes by which a plan recognizes the rows that earlier ones refused (`failures/<run>/plan.parquet`)."""

import hashlib
import json

import pyarrow as pa

from musicgen.dataset.digests import split_digests

HASHED_COLUMNS = ("id", "prompt", "error_class", "error")
REPEATED_ID = "ids are unique in a manifest, and this one is that of"  # and then the file and line of the first row


def hash_refused_row(id: str | None, prompt: str | None, error_class: str | None, reason: str | None) -> bytes:
    """Return the sha256 by which a refused row of an earlier plan is recognized: of what `failures/` says about it.

    The file and line do not count, because a row that is added at the top of a file moves all others.
    """
    if reason is not None and reason.startswith(REPEATED_ID):
        reason = REPEATED_ID
    return hashlib.sha256(json.dumps([id, prompt, error_class, reason]).encode()).digest()


def hash_refused_rows(failures: pa.Table | pa.RecordBatch) -> list[pa.Array]:
    """Return the first 128 bits of the hashes of rows with `HASHED_COLUMNS`, as two columns of integers."""
    columns = (failures[name].to_pylist() for name in HASHED_COLUMNS)
    return split_hashes([hash_refused_row(*row) for row in zip(*columns, strict=True)])


def split_hashes(digests: list[bytes]) -> list[pa.Array]:
    """Return the first 128 bits of sha256 digests as two columns of integers."""
    return [pa.array(words) for words in split_digests(b"".join(digests), hashlib.sha256().digest_size)]
