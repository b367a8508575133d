"""Joins pieces of a table into larger ones, since each is written as a row group."""

from collections.abc import Iterable, Iterator

import pyarrow as pa


def join_pieces(pieces: Iterable[pa.Table], rows: int, byte_count: int | None = None) -> Iterator[pa.Table]:
    """Yield the same rows in tables of about so many rows, or up to so many bytes if no piece has more."""
    pending: list[pa.Table] = []
    pending_rows = pending_bytes = 0
    for piece in pieces:
        is_full = byte_count is not None and pending_bytes + piece.nbytes > byte_count
        if pending and (is_full or pending_rows >= rows):
            yield pa.concat_tables(pending)
            pending, pending_rows, pending_bytes = [], 0, 0
        pending.append(piece)
        pending_rows += piece.num_rows
        pending_bytes += piece.nbytes
    if pending:
        yield pa.concat_tables(pending)
