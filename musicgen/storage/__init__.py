"""Object stores and folders behind one small interface; no other package uses fsspec, S3 or `os.link`.

    store = open_store("s3://bucket/datasets/demo")
    store.put_if_absent("index/r1/part-00000.parquet", data)

Stores are safe to use from many threads and pickle as their URI.
"""

from musicgen.storage.opening import open_store
from musicgen.storage.store import FileInfo, Store
from musicgen.storage.wildcards import covers_uri, expand_uri

__all__ = ["FileInfo", "Store", "covers_uri", "expand_uri", "open_store"]
