"""Writes, reads and verifies datasets in a folder or a bucket: file names, columns, commits of shards."""

from typing import TYPE_CHECKING

import lazy_loader

from musicgen import dataset_paths as paths

if TYPE_CHECKING:
    from musicgen.dataset.reader import Dataset, open, open_dataset
    from musicgen.dataset.status import run_statuses
    from musicgen.dataset.verification import verify, verify_dataset

__all__ = ["Dataset", "open", "open_dataset", "paths", "run_statuses", "verify", "verify_dataset"]

# pyarrow is imported when a dataset is opened, not when the package is imported.
__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "reader": ["Dataset", "open", "open_dataset"],
        "status": ["run_statuses"],
        "verification": ["verify", "verify_dataset"],
    },
)
