"""The schema is a contract: the names and order that scripts rely on."""

from itertools import permutations

import pyarrow as pa
import pytest

from musicgen.conditioning.stems import STEMS
from musicgen.dataset.schema import (
    FAILURES,
    MELODY_STEMS,
    SCHEMA_VERSION,
    carried_name,
    index_columns,
    index_schema,
    name_carried_columns,
)

CONTRACT = """
key id sample prompt melody melody_sha256 continuation duration_s frames sample_rate channels seed temperature top_k
top_p guidance_scale model model_revision audio audio_format audio_bytes audio_sha256 pcm_sha256 audio_offset peak_dbfs
loudness_lufs clipped silent engine run shard created_at
""".split()  # noqa: SIM905


VERSION_2 = ["prompt_tokens", "prompt_unknown", "continuation_sha256", "stems", "family", "negative_prompt", "steps"]


def test_columns_are_those_of_the_contract():
    assert SCHEMA_VERSION == 2
    assert index_schema(version=1).names == CONTRACT
    assert index_schema().names == [*CONTRACT, *VERSION_2]
    assert [str(index_schema().field(name).type) for name in VERSION_2] == [
        "int32",
        "int32",
        "string",
        "string",
        "string",
        "string",
        "int32",
    ]
    assert index_schema(version=1).equals(pa.schema(list(index_schema())[: len(CONTRACT)]))
    assert index_schema(version=3) == index_schema()  # what is known of a later one
    assert tuple(index_schema().names) == index_columns()
    assert "+".join(STEMS) == MELODY_STEMS
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
    for version, names in ((1, CONTRACT), (2, [*CONTRACT, *VERSION_2])):
        carried = pa.schema([("mood", pa.string())])
        assert index_schema(carried=carried, codes=True, version=version).names == [*names, "codes", "mood"]


def test_carried_columns_never_hide_index_columns():
    assert carried_name("mood") == "mood"
    assert carried_name("key") == "manifest_key"
    assert carried_name("codes") == "manifest_codes"
    assert carried_name("key", {"manifest_key"}) == "manifest_manifest_key"
    with pytest.raises(ValueError, match="not renamed"):
        index_schema(carried=pa.schema([("seed", pa.int64())]))


def test_version_2_reserves_its_columns_and_their_other_cases():
    for name in ("stems", "steps", "Prompt", "KEY"):
        assert carried_name(name) == f"manifest_{name}"
        assert carried_name(name, version=1) == name
    index_schema(carried=pa.schema([("steps", pa.string())]), version=1)


def test_names_do_not_depend_on_the_order_of_the_columns():
    columns = ["prompt", "mood", "manifest_prompt", "Mood", "key"]
    names = name_carried_columns(columns)
    assert names == {
        "prompt": "manifest_manifest_prompt",
        "mood": "manifest_mood",
        "manifest_prompt": "manifest_prompt",
        "Mood": "Mood",
        "key": "manifest_key",
    }
    assert list(names) == columns
    for shuffled in permutations(columns):
        assert name_carried_columns(shuffled) == names
    # Names that the dataset has given stay, and are not given again.
    named = {"prompt": "manifest_prompt"}
    assert name_carried_columns(["manifest_prompt", "prompt"], named) == named | {
        "manifest_prompt": "manifest_manifest_prompt"
    }
    assert name_carried_columns(["manifest_prompt"], named) == {"manifest_prompt": "manifest_manifest_prompt"}


def test_version_1_names_columns_in_their_order():
    assert name_carried_columns(["prompt", "manifest_prompt"], version=1) == {
        "prompt": "manifest_prompt",
        "manifest_prompt": "manifest_manifest_prompt",
    }
    assert name_carried_columns(["manifest_prompt", "prompt", "Prompt"], version=1) == {
        "manifest_prompt": "manifest_prompt",
        "prompt": "manifest_manifest_prompt",
        "Prompt": "Prompt",
    }
