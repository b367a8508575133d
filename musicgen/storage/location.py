"""URIs of stores, parsed, and paths inside a store, checked not to lead out of it."""

import os
from dataclasses import dataclass

from musicgen.errors import StoreError

S3_SCHEMES = frozenset({"s3", "s3a"})
UNTRIED_SCHEMES = {
    **dict.fromkeys(("gs", "gcs"), "Google Cloud Storage"),
    **dict.fromkeys(("az", "abfs", "abfss"), "Azure Blob Storage"),
}


@dataclass(frozen=True, slots=True)
class Location:
    """A URI in two parts: the scheme (`file`, `s3`, ...) and the root, an absolute path or `bucket/prefix`."""

    scheme: str
    root: str

    @property
    def uri(self) -> str:
        """The canonical form: a plain absolute path for a folder, `scheme://bucket/prefix` otherwise."""
        return self.root if self.scheme == "file" else f"{self.scheme}://{self.root}"

    @property
    def bucket(self) -> str:
        """The bucket or container; empty for a folder."""
        return "" if self.scheme == "file" else self.root.partition("/")[0]

    @property
    def prefix(self) -> str:
        """The part after the bucket, without slashes at the ends; the path of a folder."""
        return self.root if self.scheme == "file" else self.root.partition("/")[2]


def parse_uri(uri: str) -> Location:
    """Parse a URI or a plain path.

    Raises `StoreError` for a scheme that cannot hold a dataset, a bucket without a name, and credentials in the URI
    (which are never repeated in the message).
    """
    text = os.fspath(uri)
    if not text or any(ord(character) < 32 for character in text):
        raise StoreError(
            "an empty URI, or one with control characters, is not a place; give a folder or s3://bucket/prefix"
        )
    scheme, separator, rest = text.partition("://")
    if not separator:
        return Location("file", os.path.abspath(os.path.expanduser(text)))
    scheme = scheme.lower()
    if scheme == "file":
        if not rest.startswith("/"):
            raise StoreError(f"{text}: a file URI has three slashes, as in file:///data/out")
        return Location("file", os.path.abspath(rest))
    if scheme in UNTRIED_SCHEMES:
        raise StoreError(
            f"{scheme}:// ({UNTRIED_SCHEMES[scheme]}) has not been tried and is refused; use a folder, or s3:// for a "
            "store that speaks S3 and knows If-None-Match (AWS_ENDPOINT_URL says where it is)"
        )
    if scheme not in S3_SCHEMES:
        raise StoreError(f"{scheme}:// cannot be used as storage; use a folder or s3://")
    parts = [part for part in rest.split("/") if part]
    if not parts:
        raise StoreError(f"{scheme}:// lacks a bucket; write {scheme}://bucket/prefix")
    if "@" in parts[0]:
        raise StoreError(
            f"credentials do not belong in a {scheme}:// URI; put them in the environment (AWS_ACCESS_KEY_ID, ...)"
        )
    if ".." in parts or "." in parts:
        raise StoreError(f"{text}: '.' and '..' have no meaning in an object store; write the path out")
    return Location("s3" if scheme == "s3a" else scheme, "/".join(parts))


def check_path(path: str) -> str:
    """Return a path inside a store if it is relative, without `.`, `..`, empty segments, backslashes or control
    characters.

    Raises ValueError, since this program made all paths: a bad one is a bug or a forged index.
    """
    has_bad_segment = any(segment in ("", ".", "..") for segment in path.split("/"))
    has_bad_character = any(character == "\\" or ord(character) < 32 or ord(character) == 127 for character in path)
    if has_bad_segment or has_bad_character:
        raise ValueError(f"not a path inside a store: {path!r}")
    return path
