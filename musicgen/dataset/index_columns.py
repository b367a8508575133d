"""The columns of an index whose runs do not all have the same ones: later runs may have added carried columns."""

from collections.abc import Sequence

import pyarrow as pa

from musicgen.dataset.info import DatasetInfo
from musicgen.dataset.schema import index_schema


def index_schema_of(info: DatasetInfo) -> pa.Schema:
    """Return the index's columns and types as `dataset.json` tells them, without carried columns of nested types."""
    carried = pa.schema([(name, _parse_type(text)) for name, text in info.carried.items() if _is_type_alias(text)])
    return index_schema(info.layout, carried, info.codes, info.schema_version)


def select_columns(schema: pa.Schema, columns: Sequence[str] | None) -> pa.Schema:
    """Return the schema of these columns, in their order; None: all. Raises `KeyError` for an unknown one."""
    return schema if columns is None else pa.schema([schema.field(name) for name in columns])


def fill_columns(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return the table with the columns of `schema`, in its order; those that the table lacks are null."""
    columns = [
        table[field.name].cast(field.type)
        if field.name in table.column_names
        else pa.chunked_array([pa.nulls(table.num_rows, field.type)])
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _parse_type(text: str) -> pa.DataType:
    return pa.type_for_alias(text)


def _is_type_alias(text: str) -> bool:
    try:
        _parse_type(text)
    except ValueError:
        return False
    return True
