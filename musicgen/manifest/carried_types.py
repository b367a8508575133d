"""The types that carried columns have in the index, and the one textual form of values that are written as text.

Types that not every reader of Parquet knows become text, as JSON has it (musicgen/manifest/json_columns.py).
"""

import json
import zoneinfo
from collections.abc import Callable, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from musicgen.manifest.json_columns import to_json_column

_UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_YEARS_S = (-62_135_596_800, 253_402_300_799)  # what Python's dates can hold, in seconds: the years 1 to 9999
_DAY_S = 86_400


def choose_index_type(data_type: pa.DataType) -> pa.DataType:
    """Return the type that a new dataset gives a carried column: its own, if all readers of Parquet know it."""
    if isinstance(data_type, pa.BaseExtensionType):
        is_uuid = data_type.extension_name == "arrow.uuid"
        return pa.string() if is_uuid else choose_index_type(data_type.storage_type)
    if pa.types.is_float16(data_type):
        return pa.float32()
    if pa.types.is_fixed_size_binary(data_type):
        return pa.binary()
    if pa.types.is_timestamp(data_type) and data_type.tz and not _is_known_zone(data_type.tz):
        return pa.timestamp(data_type.unit, "UTC")
    if pa.types.is_list(data_type) or pa.types.is_fixed_size_list(data_type):
        element = choose_index_type(data_type.value_type)
        is_text = pa.types.is_string(element) and not pa.types.is_string(data_type.value_type)
        return pa.string() if is_text else pa.list_(pa.field("element", element))
    if pa.types.is_struct(data_type):
        fields = list(data_type)
        return data_type if all(choose_index_type(field.type) == field.type for field in fields) else pa.string()
    return data_type if _is_widely_known(data_type) else pa.string()


def _is_widely_known(data_type: pa.DataType) -> bool:
    is_kind: Sequence[Callable[[pa.DataType], bool]] = (
        pa.types.is_boolean,
        pa.types.is_integer,
        pa.types.is_floating,
        pa.types.is_string,
        pa.types.is_binary,
        pa.types.is_timestamp,
        pa.types.is_date,
        pa.types.is_time,
        pa.types.is_decimal128,
        pa.types.is_null,
    )
    return any(check(data_type) for check in is_kind)


def _is_known_zone(zone: str) -> bool:
    if zone[:1] in "+-":
        return True
    try:
        zoneinfo.ZoneInfo(zone)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True


def to_texts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the values of a column of any type as text, in the form that they have in JSON; nulls stay."""
    values = to_json_column(column)
    if not pa.types.is_nested(values.type):
        return values.cast(pa.string())
    texts = [None if value is None else dump_json(value) for value in values.to_pylist()]
    return pa.chunked_array([pa.array(texts, pa.string())])


def _is_plain_json(data_type: pa.DataType) -> bool:
    """Whether Python's values of a type are JSON's, in any depth."""
    if pa.types.is_list(data_type) or pa.types.is_large_list(data_type) or pa.types.is_fixed_size_list(data_type):
        return _is_plain_json(data_type.value_type)
    if pa.types.is_struct(data_type):
        return all(_is_plain_json(field.type) for field in data_type)
    is_number = pa.types.is_boolean(data_type) or pa.types.is_integer(data_type) or pa.types.is_floating(data_type)
    return is_number or pa.types.is_string(data_type) or pa.types.is_null(data_type)


def dump_json(value: object) -> str:
    """Return a value as compact JSON text."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def find_unrepresentable(table: pa.Table) -> set[str]:
    """Return the columns with a date or time that Python's own types cannot hold: outside of the years 1 to 9999."""
    return {name for name in table.column_names if not _is_representable(table[name])}


def _is_representable(column: pa.ChunkedArray) -> bool:
    data_type = column.type
    if pa.types.is_timestamp(data_type) or pa.types.is_date(data_type):
        if pa.types.is_date32(data_type):
            per_second, numbers, seconds = 1, column.cast(pa.int32()), _DAY_S
        else:
            per_second = _UNITS[data_type.unit] if pa.types.is_timestamp(data_type) else 1000
            numbers, seconds = column.cast(pa.int64()), 1
        least, most = pc.min_max(numbers).as_py().values()
        if least is None:
            return True
        return _YEARS_S[0] <= least * seconds // per_second and most * seconds // per_second <= _YEARS_S[1]
    if pa.types.is_nested(data_type) and not _is_plain_json(data_type):
        try:
            column.to_pylist()
        except (ValueError, OverflowError, pa.ArrowException):
            return False
    return True
