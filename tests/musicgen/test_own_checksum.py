"""A file that holds its own sha256: every changed bit is noticed, and one can be turned back."""

import io
import json
from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from musicgen.own_checksum import check_json, check_parquet, check_text, dump_json, fill_text, find_flipped_bit
from musicgen.storage.parquet_writer import encode_parquet

TABLE = pa.table({"key": ["a" * 64, "b" * 64], "bpm": [80.0, None]})
TEXT = f"# Music\n<!-- begin sha256={'0' * 64} (ours) -->\n5 clips\n"


def is_right_json(content: bytes) -> bool:
    try:
        json.loads(content)
    except ValueError:
        return False
    return check_json(content) == "right"


FORMS: dict[str, tuple[bytes, Callable[[bytes], bool]]] = {
    "json": (dump_json({"run": "r1-1", "prompt": 'é"}'}, indent=1, end="\n"), is_right_json),
    "text": (fill_text(TEXT).encode(), lambda content: check_text(content) == "right"),
    "parquet": (encode_parquet(TABLE), lambda content: check_parquet(io.BytesIO(content)) == "right"),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_changed_bit_is_noticed(form: str) -> None:
    content, is_right = FORMS[form]
    assert is_right(content)
    for position in range(len(content)):
        for bit in range(8):
            changed = bytearray(content)
            changed[position] ^= 1 << bit
            assert not is_right(bytes(changed)), (position, bit)


@pytest.mark.parametrize("form", FORMS)
def test_one_changed_bit_is_turned_back(form: str) -> None:
    content, is_right = FORMS[form]
    changed = bytearray(content)
    changed[len(content) // 3] ^= 4
    assert find_flipped_bit(bytes(changed), is_right) == content
    changed[len(content) // 2] ^= 4
    assert find_flipped_bit(bytes(changed[:200]), is_right) is None


def test_files_without_a_checksum_are_told_apart() -> None:
    sink = io.BytesIO()
    pq.write_table(TABLE, sink)
    assert check_parquet(sink) == "absent"
    assert check_json(b'{"audio_sha256": 1, "x": "y"}\n') == "absent"
    assert check_text(TEXT.replace("sha256", "hash").encode()) == "absent"


def test_other_readers_see_a_table_as_it_was_given() -> None:
    content = encode_parquet(TABLE.replace_schema_metadata({"own": "1"}))
    assert pq.read_table(io.BytesIO(content), page_checksum_verification=True).equals(TABLE)
    assert pq.read_schema(io.BytesIO(content)).metadata == {b"own": b"1"}
