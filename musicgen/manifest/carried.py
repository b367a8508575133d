"""Carried columns: what their types are, and how values of other shapes are made to fit.

Parquet keeps its types, CSV is text. JSON has no columns, so a key's type is what all its values have in common:
true/false, whole numbers, numbers, else text (nested values as JSON text).
"""

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from musicgen.errors import ManifestError

_ARROW_TYPES: dict[frozenset[type], pa.DataType] = {
    frozenset({bool}): pa.bool_(),
    frozenset({int}): pa.int64(),
    frozenset({float}): pa.float64(),
    frozenset({int, float}): pa.float64(),
}
_NONE_TYPE = type(None)
INT64_LIMIT = 1 << 63


class JsonTypes:
    """The types that the values of each key were seen to have."""

    def __init__(self) -> None:
        self._seen: dict[str, set[type]] = {}

    def observe(self, row: dict[str, Any]) -> None:
        """Take note of one row."""
        for name, value in row.items():
            kind = type(value)
            if kind is int and not -INT64_LIMIT <= value < INT64_LIMIT:
                kind = str  # no Arrow integer holds it
            seen = self._seen.get(name)
            if seen is None:
                self._seen[name] = {kind}
            elif kind not in seen:
                seen.add(kind)

    def schema(self) -> pa.Schema:
        """The columns and their types, in the order in which they were first seen."""
        return pa.schema(
            [(name, _ARROW_TYPES.get(frozenset(seen - {_NONE_TYPE}), pa.string())) for name, seen in self._seen.items()]
        )


def build_json_table(rows: Sequence[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """JSON rows as a table of this schema (one that `JsonTypes` gave)."""
    columns = []
    for field in schema:
        values = [row.get(field.name) for row in rows]
        columns.append(
            pa.array([_to_text(value) for value in values] if pa.types.is_string(field.type) else values, field.type)
        )
    return pa.Table.from_arrays(columns, schema=schema)


def _to_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def unify_schemas(schemas: Sequence[pa.Schema], where: str) -> pa.Schema:
    """One schema that all files' carried columns fit; whole numbers become numbers where a file has those.

    Raises `ManifestError` if a column is text in one file and something else in another.
    """
    fields: dict[str, pa.Field] = {}
    for schema in schemas:
        for field in schema:
            known = fields.get(field.name)
            if known is None or known.type == field.type:
                fields.setdefault(field.name, field)
                continue
            try:
                pair = [pa.schema([known.with_nullable(True)]), pa.schema([field.with_nullable(True)])]
                fields[field.name] = pa.unify_schemas(pair, promote_options="permissive").field(0)
            except pa.ArrowException:
                raise ManifestError(
                    f"{where}: the column `{field.name}` is {known.type} in one file and {field.type} in another; "
                    "make them one type"
                ) from None
    return pa.schema([pa.field(field.name, _replace_null_types(field.type)) for field in fields.values()])


def _replace_null_types(kind: pa.DataType) -> pa.DataType:
    """The type with text where no file has shown anything but nulls."""
    if pa.types.is_null(kind):
        return pa.string()
    if pa.types.is_list(kind):
        return pa.list_(pa.field("element", _replace_null_types(kind.value_type)))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(field.name, _replace_null_types(field.type)) for field in kind])
    return kind


def fit_columns(table: pa.Table, schema: pa.Schema, names: dict[str, str], where: str) -> pa.Table:
    """The table's columns under their names and types in the index: `names` is manifest column -> index column.

    A column that the table lacks is null. Raises `ManifestError` if a value does not fit its column's type.
    """
    columns = []
    for source, target in names.items():
        field = schema.field(target)
        if source not in table.column_names:
            columns.append(pa.nulls(table.num_rows, field.type))
            continue
        column = table[source]
        try:
            columns.append(column if column.type == field.type else cast_column(column, field.type))
        except (pa.ArrowException, ValueError):
            raise ManifestError(
                f"{where}: a value of the column `{source}` does not fit the type {field.type} that this dataset "
                "pins for it; "
                "correct it, or write to another output"
            ) from None
    return pa.Table.from_arrays(columns, schema=pa.schema([schema.field(name) for name in names.values()]))


def cast_column(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """A safe cast; nested values become JSON text where text is wanted. Raises `pa.ArrowException` or `ValueError`."""
    if pa.types.is_string(kind) and pa.types.is_nested(column.type):
        return pa.chunked_array([pa.array([_to_text(value) for value in column.to_pylist()], kind)])
    return column.cast(kind)
