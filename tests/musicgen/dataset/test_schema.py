"""The schema is a contract: the names and order that scripts rely on."""

import pyarrow as pa
import pytest

from musicgen.dataset.schema import FAILURES, carried_name, index_schema

CONTRACT = """
key id sample prompt melody melody_sha256 continuation duration_s frames sample_rate channels seed temperature top_k
top_p guidance_scale model model_revision audio audio_format audio_bytes audio_sha256 pcm_sha256 audio_offset peak_dbfs
loudness_lufs clipped silent engine run shard created_at
""".split()  # noqa: SIM905


def test_columns_are_those_of_the_contract():
    assert index_schema().names == CONTRACT
    assert FAILURES.names == [
        "key",
        "id",
        "prompt",
        "source",
        "error_class",
        "error",
        "attempts",
        "run",
        "shard",
        "created_at",
    ]
    assert index_schema("parquet").field("audio").type == pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    assert index_schema(carried=pa.schema([("mood", pa.string())]), codes=True).names == [*CONTRACT, "codes", "mood"]


def test_carried_columns_never_hide_index_columns():
    assert carried_name("mood") == "mood"
    assert carried_name("key") == "manifest_key"
    assert carried_name("codes") == "manifest_codes"
    assert carried_name("key", {"manifest_key"}) == "manifest_manifest_key"
    with pytest.raises(ValueError, match="not renamed"):
        index_schema(carried=pa.schema([("seed", pa.int64())]))
