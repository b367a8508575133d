"""Opens the store of a URI."""

from musicgen.storage.local import LocalStore
from musicgen.storage.location import parse_uri
from musicgen.storage.store import Store


def open_store(uri: str, single_writer: bool = False) -> Store:
    """Return the store of a folder or of `s3://bucket/prefix`.

    The store is not accessed; `Store.check` and `Store.probe` do so. `single_writer` accepts stores without
    put-if-absent, for jobs whose user promises that they are alone. Raises `StoreError` for a URI that cannot be one.
    """
    location = parse_uri(uri)
    if location.scheme == "file":
        return LocalStore(location, single_writer)
    from musicgen.storage.s3_store import S3Store  # imports botocore and aiohttp

    return S3Store(location, single_writer)
