"""A dataset on disk or in a bucket: what it pins, how shards commit to it, and how it is read and verified."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from musicgen.dataset.reader import Dataset, open
    from musicgen.dataset.verify import verify

__all__ = ["Dataset", "open", "verify"]

# pyarrow is imported when a dataset is opened, not when the package is imported.
__getattr__, __dir__, _ = lazy_loader.attach(
    __name__, submod_attrs={"reader": ["Dataset", "open"], "verify": ["verify"]}
)
