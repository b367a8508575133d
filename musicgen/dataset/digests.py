"""Hash digests as columns of integers, by which DuckDB compares rows.

The first 128 bits stand for a digest: among 10^9 of them two share these bits with a chance of about 10^-21.
"""

import numpy as np
from numpy.typing import NDArray


def split_digests(digests: bytes, size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first 128 bits of each digest as two integers. `digests` are joined; each has `size` bytes."""
    words = np.frombuffer(digests, dtype="<i8").reshape(len(digests) // size, size // 8)
    return words[:, 0].copy(), words[:, 1].copy()
