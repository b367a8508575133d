"""Carried columns: the manifest's columns that have no meaning for a clip and go to the index as they are.

Columns of Parquet keep their types, those of CSV are text. JSON has no columns, so a key's type is the one that fits
all its values: true/false, whole numbers, numbers, else text (nested values as JSON text).
"""

import unicodedata
from collections.abc import Mapping, Sequence

import pyarrow as pa

from musicgen.errors import ManifestError
from musicgen.manifest.carried_types import dump_json, find_unrepresentable, to_texts
from musicgen.value_types import JsonObject

_EXACT = 1 << 53  # beyond it, a floating-point number is a rounded one


class LongInteger:
    """Stands for the type of an integer that a floating-point number cannot hold exactly."""


_ARROW_TYPES: dict[frozenset[type], pa.DataType] = {
    frozenset({bool}): pa.bool_(),
    frozenset({int}): pa.int64(),
    frozenset({float}): pa.float64(),
    frozenset({int, float}): pa.float64(),
    frozenset({LongInteger}): pa.int64(),
    frozenset({int, LongInteger}): pa.int64(),
}
_NONE_TYPE = type(None)
INT64_LIMIT = 1 << 63


class JsonTypes:
    """The types of the values of each key, over all rows."""

    def __init__(self) -> None:
        self._seen: dict[str, set[type]] = {}

    def observe(self, row: JsonObject) -> None:
        """Add the types of one row's values."""
        for name, value in row.items():
            value_type = type(value)
            if value_type is int and not -_EXACT <= value <= _EXACT:
                value_type = LongInteger if -INT64_LIMIT <= value < INT64_LIMIT else str  # no Arrow integer holds it
            seen = self._seen.get(name)
            if seen is None:
                self._seen[name] = {value_type}
            elif value_type not in seen:
                seen.add(value_type)

    def schema(self) -> pa.Schema:
        """Return the columns and their types, in the order in which they were first seen."""
        return pa.schema(
            [(name, _ARROW_TYPES.get(frozenset(seen - {_NONE_TYPE}), pa.string())) for name, seen in self._seen.items()]
        )


def build_json_table(rows: Sequence[Mapping[str, object]], schema: pa.Schema) -> pa.Table:
    """Return JSON rows as a table of a schema that `JsonTypes` gave."""
    columns = []
    for field in schema:
        values: list[object] = [row.get(field.name) for row in rows]
        if pa.types.is_string(field.type):
            values = [_to_text(value) for value in values]
        columns.append(pa.array(values, field.type))
    return pa.Table.from_arrays(columns, schema=schema)


def _to_text(value: object) -> str | None:
    return value if value is None or isinstance(value, str) else dump_json(value)


def unify_schemas(schemas: Sequence[pa.Schema], manifest: str) -> pa.Schema:
    """Return one schema that all files' carried columns fit: whole numbers become numbers where a file has those.

    `manifest` is its name in a message. Raises `ManifestError` if a column is text in one file and not in another.
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
                    f"{manifest}: the column `{field.name}` is {known.type} in one file and {field.type} in another; "
                    "make them one type"
                ) from None
    return pa.schema([pa.field(field.name, _replace_null_types(field.type)) for field in fields.values()])


def refuse_similar_names(columns: Sequence[str], manifest: str) -> None:
    """Raise `ManifestError` for two columns whose names differ in case or Unicode form alone; SQL mixes them up."""
    names: dict[str, str] = {}
    for column in columns:
        other = names.setdefault(unicodedata.normalize("NFC", column).casefold(), column)
        if other != column:
            raise ManifestError(
                f"{manifest}: the columns {other!a} and {column!a} differ in case or Unicode form alone, so SQL cannot "
                "tell them apart; rename one"
            )


def _replace_null_types(data_type: pa.DataType) -> pa.DataType:
    """Return the type with text in place of null: no file has a value from which the type could be known."""
    if pa.types.is_null(data_type):
        return pa.string()
    if pa.types.is_list(data_type):
        return pa.list_(pa.field("element", _replace_null_types(data_type.value_type)))
    if pa.types.is_struct(data_type):
        return pa.struct([pa.field(field.name, _replace_null_types(field.type)) for field in data_type])
    return data_type


def fit_columns(table: pa.Table, schema: pa.Schema, names: Mapping[str, str], source: str) -> pa.Table:
    """Return the table's columns under their names and types in the index: `names` is manifest column -> index column.

    A column that the table lacks is null. Raises `ManifestError`, which names `source`, if a value does not fit its
    column's type.
    """
    columns = []
    for manifest_name, index_name in names.items():
        field = schema.field(index_name)
        if manifest_name not in table.column_names:
            columns.append(pa.nulls(table.num_rows, field.type))
            continue
        column = table[manifest_name]
        try:
            if not pa.types.is_string(field.type) and find_unrepresentable(table.select([manifest_name])):
                raise ValueError
            columns.append(column if column.type == field.type else cast_column(column, field.type))
        except (pa.ArrowException, ValueError, OverflowError):
            raise ManifestError(
                f"{source}: a value of the column `{manifest_name}` does not fit the type {field.type} that this "
                "dataset or another file gives it; correct it, or write to another output"
            ) from None
    return pa.Table.from_arrays(columns, schema=pa.schema([schema.field(name) for name in names.values()]))


def cast_column(column: pa.ChunkedArray, data_type: pa.DataType) -> pa.ChunkedArray:
    """Cast without loss; where the type is text, values get the textual form of `to_texts`.

    Bytes are text if they are UTF-8. Raises `pa.ArrowException` or `ValueError`.
    """
    if pa.types.is_string(data_type) and not pa.types.is_binary(column.type):
        return to_texts(column)
    if isinstance(column.type, pa.BaseExtensionType):
        column = pa.chunked_array([chunk.storage for chunk in column.chunks], column.type.storage_type)
    return column.cast(data_type)
