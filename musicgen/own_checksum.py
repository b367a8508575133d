"""Files that hold their own sha256, so that any changed bit of them is noticed, also where no reader looks.

The hash is of the file with 64 zeros in the place of the hash's hex digits. In a JSON document it is the last entry,
`"sha256"`; in a Parquet file the entry `musicgen.sha256` of its key-value metadata, which other readers pass over; in a
card it stands in the comment that begins our part.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from typing import BinaryIO, Literal

BLANK = "0" * 64
PARQUET_KEY = "musicgen.sha256"
State = Literal["right", "wrong", "absent"]

_JSON_KEY = "sha256"
_JSON_ENTRY = re.compile(rb'"([^"]*)":\s?"([^"]{64})"\s*\}\s*\Z')  # whatever its name, since that may be damaged
# Strings in Thrift's compact protocol: the key, then a field of type binary (0x18) of 64 bytes.
_PARQUET_ENTRY = re.compile(re.escape(PARQUET_KEY.encode()) + rb"\x18\x40([0-9a-f]{64})")
_TEXT_ENTRY = re.compile(rb"sha256=([0-9a-f]{64}) ")
_PARQUET_END = 8  # the length of the footer (uint32, little-endian), and the magic bytes
_CHUNK = 4 << 20


def dump_json(document: Mapping[str, object], indent: int | None = None, end: str = "") -> bytes:
    """Return a document as JSON in UTF-8 that ends with its own sha256, and `end` after it."""
    text = json.dumps({**document, _JSON_KEY: BLANK}, indent=indent, ensure_ascii=False) + end
    content = bytearray(text.encode())
    place = _JSON_ENTRY.search(content)
    assert place is not None
    return _fill(content, place.start(2))


def check_json(content: bytes) -> State:
    """Tell whether a JSON document is what was written; "absent" if it holds no checksum."""
    place = _JSON_ENTRY.search(content)
    if place is None:
        return "absent"
    is_right = place[1] == _JSON_KEY.encode() and _fill(bytearray(content), place.start(2)) == content
    return "right" if is_right else "wrong"


def fill_text(text: str) -> str:
    """Return a text with its own sha256 in the first place of the form `sha256=<64 hex digits> `; as it is without."""
    content = bytearray(text.encode())
    place = _TEXT_ENTRY.search(content)
    return text if place is None else _fill(content, place.start(1)).decode()


def blank_text(text: str) -> str:
    """Return a text with zeros for its checksum, so that two can be compared without it."""
    content = text.encode()
    place = _TEXT_ENTRY.search(content)
    return text if place is None else (content[: place.start(1)] + BLANK.encode() + content[place.end(1) :]).decode()


def check_text(content: bytes) -> State:
    """Tell whether a text is what `fill_text` returned."""
    place = _TEXT_ENTRY.search(content)
    if place is None:
        return "absent"
    return "right" if _fill(bytearray(content), place.start(1)) == content else "wrong"


def fill_parquet_checksum(file: BinaryIO) -> None:
    """Put the checksum into a Parquet file that was written with the entry `PARQUET_KEY: BLANK`.

    `file` is open for reading and writing.
    """
    place = _find_in_parquet(file)
    if place is None:
        raise ValueError(f"the Parquet file has no entry {PARQUET_KEY}")
    position, _ = place
    digest = _hash_without(file, position)
    file.seek(position)
    file.write(digest.encode())


def check_parquet(file: BinaryIO) -> State:
    """Tell whether a Parquet file is what was written; "absent" if it holds no checksum. It is read as a whole."""
    place = _find_in_parquet(file)
    if place is None:
        return "absent"
    position, digest = place
    return "right" if _hash_without(file, position) == digest else "wrong"


def find_flipped_bit(content: bytes, is_right: Callable[[bytes], bool]) -> bytes | None:
    """Return the content with the one bit turned back whose change makes it right; None if there is none such.

    It tries every bit, and so takes time that grows with the square of the size: a second for 10 KB.
    """
    changed = bytearray(content)
    for position in range(len(changed)):
        for bit in range(8):
            changed[position] ^= 1 << bit
            if is_right(bytes(changed)):
                return bytes(changed)
            changed[position] ^= 1 << bit
    return None


def _fill(content: bytearray, position: int) -> bytes:
    """Return the content with its hash at a position; what stands there now does not count."""
    content[position : position + len(BLANK)] = BLANK.encode()
    digest = hashlib.sha256(content).hexdigest()
    content[position : position + len(BLANK)] = digest.encode()
    return bytes(content)


def _find_in_parquet(file: BinaryIO) -> tuple[int, str] | None:
    """Return where the digits of the checksum are in a Parquet file, and the digits."""
    size = file.seek(0, 2)
    file.seek(max(0, size - _PARQUET_END))
    footer = int.from_bytes(file.read(4), "little") + _PARQUET_END
    if footer > size:
        return None
    file.seek(size - footer)
    places = list(_PARQUET_ENTRY.finditer(file.read(footer)))
    return (size - footer + places[-1].start(1), places[-1][1].decode()) if places else None


def _hash_without(file: BinaryIO, position: int) -> str:
    """Hash a file as if the digits at a position were zeros."""
    digest = hashlib.sha256()
    file.seek(0)
    left = position
    while left:
        chunk = file.read(min(_CHUNK, left))
        if not chunk:
            break
        digest.update(chunk)
        left -= len(chunk)
    digest.update(BLANK.encode())
    file.seek(position + len(BLANK))
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()
