"""Gives columns of the index the form that their values have in JSON: in a tar's members, and in a copy of them.

JSON has numbers, texts, lists and objects. Everything else is text: dates, times and durations as ISO 8601 has them
(`2024-02-29T23:30:00.123456+00:00`, `PT1.5S`), decimals with all their digits, bytes in base64. NaN and infinity, which
JSON lacks, are null. A map is a list of objects with `key` and `value`, since keys of JSON are texts. The conversion is
made on Arrow's arrays, because Python has no dates after the year 9999 and no nanoseconds.
"""

import base64
import math
from collections.abc import Callable, Iterable
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc

_Value = TypeVar("_Value")

_UNITS_PER_S = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def json_type(arrow_type: pa.DataType) -> pa.DataType:
    """Return the type of a column's values in JSON; types that JSON does not have are strings there."""
    types = pa.types
    if types.is_map(arrow_type):
        key, value = json_type(arrow_type.key_type), json_type(arrow_type.item_type)
        return pa.list_(pa.struct([("key", key), ("value", value)]))
    if _is_list(arrow_type):
        return pa.list_(json_type(arrow_type.value_type))
    if types.is_struct(arrow_type):
        return pa.struct([(field.name, json_type(field.type)) for field in arrow_type])
    if types.is_dictionary(arrow_type) or types.is_run_end_encoded(arrow_type):
        return json_type(arrow_type.value_type)
    if types.is_uint64(arrow_type):
        return pa.string()  # readers of JSON that make whole numbers of 64 bits have a sign in them
    is_number = types.is_boolean(arrow_type) or types.is_integer(arrow_type) or types.is_floating(arrow_type)
    return arrow_type if is_number else pa.string()


def member_type(arrow_type: pa.DataType, version: int) -> pa.DataType:
    """Return the type of a column's values in the tars of a dataset of this schema version."""
    return arrow_type if version == 1 and pa.types.is_uint64(arrow_type) else json_type(arrow_type)


def to_json_table(table: pa.Table) -> pa.Table:
    """Return a table with the values that its rows have in JSON; each column has the type that `json_type` gives."""
    columns = [to_json_column(column) for column in table.columns]
    if not columns:
        return table
    return pa.table(columns, schema=pa.schema([(f.name, json_type(f.type)) for f in table.schema]))


def to_json_column(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column with the values that it has in JSON, of the type that `json_type` gives."""
    return pa.chunked_array([_convert(chunk) for chunk in column.chunks], json_type(column.type))


def _convert(array: pa.Array) -> pa.Array:
    """Return an array of the type that `json_type` gives for its type."""
    types, arrow_type = pa.types, array.type
    if types.is_map(arrow_type):
        pairs = pa.struct([("key", arrow_type.key_type), ("value", arrow_type.item_type)])
        return _convert(array.cast(pa.list_(pairs)))
    if _is_list(arrow_type):
        return _convert_lists(array)
    if types.is_struct(arrow_type):
        return _convert_structs(array)
    if types.is_dictionary(arrow_type):
        return _convert(array.dictionary_decode())
    if types.is_run_end_encoded(arrow_type):
        return _convert(pc.run_end_decode(array))
    if types.is_float16(arrow_type):  # Arrow computes nothing with these
        halves = [half if half is not None and math.isfinite(half) else None for half in array.to_pylist()]
        return pa.array(halves, arrow_type)
    if types.is_floating(arrow_type):
        return pc.if_else(pc.is_finite(array), array, pa.scalar(None, arrow_type))
    return array if json_type(arrow_type) == arrow_type else _to_text(array)


def _is_list(arrow_type: pa.DataType) -> bool:
    types = pa.types
    is_any_list = types.is_list(arrow_type) or types.is_large_list(arrow_type) or types.is_fixed_size_list(arrow_type)
    return is_any_list or types.is_list_view(arrow_type) or types.is_large_list_view(arrow_type)


def _convert_lists(array: pa.Array) -> pa.ListArray:
    lengths = pc.fill_null(pc.list_value_length(array), 0)
    ends = pc.cumulative_sum(lengths).cast(pa.int32())
    offsets = pa.concat_arrays([pa.array([0], pa.int32()), ends])
    return pa.ListArray.from_arrays(offsets, _convert(array.flatten()), mask=array.is_null())


def _convert_structs(array: pa.StructArray) -> pa.StructArray:
    children = [_convert(child) for child in array.flatten()]
    if not children:
        return array
    fields = [pa.field(field.name, child.type) for field, child in zip(array.type, children, strict=True)]
    return pa.StructArray.from_arrays(children, fields=fields, mask=array.is_null())


def _to_text(array: pa.Array) -> pa.Array:
    types, arrow_type = pa.types, array.type
    if isinstance(arrow_type, pa.UuidType):
        return _map_values(array.to_pylist(), str)
    if isinstance(arrow_type, pa.BaseExtensionType):
        return _convert(array.storage).cast(pa.string())
    if types.is_timestamp(arrow_type):
        return _timestamps_to_text(array)
    if types.is_duration(arrow_type):
        return _map_values(array.cast(pa.int64()).to_pylist(), lambda ticks: _duration_to_text(ticks, arrow_type.unit))
    if types.is_date64(arrow_type):
        return array.cast(pa.date32()).cast(pa.string())
    if types.is_interval(arrow_type):
        return _map_values(array.to_pylist(), str)
    if _is_binary(arrow_type):
        return _map_values(array.to_pylist(), lambda content: base64.b64encode(content).decode())
    return array.cast(pa.string())


def _is_binary(arrow_type: pa.DataType) -> bool:
    types = pa.types
    is_any_binary = types.is_binary(arrow_type) or types.is_large_binary(arrow_type)
    return is_any_binary or types.is_fixed_size_binary(arrow_type) or types.is_binary_view(arrow_type)


def _map_values(values: Iterable[_Value | None], to_text: Callable[[_Value], str]) -> pa.Array:
    return pa.array([None if value is None else to_text(value) for value in values], pa.string())


def _timestamps_to_text(array: pa.Array) -> pa.Array:
    """Return timestamps with as many decimals as their unit has, and the offset from UTC where they have a zone."""
    zone = array.type.tz
    if zone is None:
        return pc.replace_substring(array.cast(pa.string()), " ", "T")
    offsets: pa.Array | str = "+00:00"
    local = array.cast(pa.timestamp(array.type.unit))  # the time in UTC, without the zone
    if zone.upper() != "UTC":
        try:
            local, offsets = pc.local_timestamp(array), pc.strftime(array, format="%z")
            offsets = pc.replace_substring_regex(offsets, r"(\d\d)(\d\d)$", r"\1:\2")
        except pa.ArrowException:
            pass  # a zone that this machine does not know, or a date beyond its rules: then UTC
    return pc.binary_join_element_wise(_timestamps_to_text(local), offsets, "")


def _duration_to_text(ticks: int, unit: str) -> str:
    """Return a duration in seconds, as ISO 8601 writes it: `PT93784.5S`."""
    seconds, fraction = divmod(abs(ticks), _UNITS_PER_S[unit])
    decimals = f"{fraction:0{len(str(_UNITS_PER_S[unit])) - 1}d}".rstrip("0") if fraction else ""
    return f"{'-' if ticks < 0 else ''}PT{seconds}{'.' if decimals else ''}{decimals}S"
