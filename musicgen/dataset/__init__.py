"""A dataset on disk or in a bucket: what it pins, how shards commit to it, and how it is read and verified."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from musicgen.dataset.reader import Dataset, open
    from musicgen.dataset.verify import verify

__all__ = ["Dataset", "open", "verify"]


def __getattr__(name: str) -> Any:  # pyarrow is loaded when a dataset is, not when the package is
    if name in ("Dataset", "open"):
        from musicgen.dataset import reader

        return getattr(reader, name)
    if name == "verify":
        from musicgen.dataset.verify import verify

        return verify
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
