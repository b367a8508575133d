"""The fingerprint of a manifest's distinct rows, by which a plan knows the manifest again."""

import hashlib
from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from musicgen.dataset.digests import split_digests


def compute_fingerprint(keys: Iterable[pa.ChunkedArray]) -> str:
    """Return the fingerprint of distinct keys (hex), in any order, as `MissingRows.keep_distinct` does."""
    count, sums, exclusive_ors = 0, [0, 0], [0, 0]
    for piece in keys:
        digests = b"".join(map(bytes.fromhex, piece.to_pylist()))
        for number, words in enumerate(split_digests(digests, hashlib.sha256().digest_size)):
            sums[number] += (int((words >> 32).sum()) << 32) + int((words & 0xFFFFFFFF).sum())  # of more than 64 bits
            exclusive_ors[number] ^= int(np.bitwise_xor.reduce(words))
        count += len(piece)
    return ":".join(map(str, (count, *sums, *exclusive_ors)))


def hash_fingerprint(fingerprint: str) -> str:
    """Return a fingerprint as a plan holds it."""
    return hashlib.sha256(fingerprint.encode()).hexdigest()
