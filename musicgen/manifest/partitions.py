"""Columns in the names of folders, as Hive and Spark write them: `lang=en/mood=sad/part-0.parquet`."""

from urllib.parse import unquote

_NULL = "__HIVE_DEFAULT_PARTITION__"


def read_partitions(base: str, uri: str) -> tuple[tuple[str, str | None], ...]:
    """Return column and value of each folder `column=value` between a manifest's base folder and one of its files."""
    folder = base.rstrip("/") + "/"
    if not uri.startswith(folder):
        return ()
    columns: dict[str, str | None] = {}
    for segment in uri.removeprefix(folder).split("/")[:-1]:
        name, equals, value = segment.partition("=")
        if equals and name:
            columns[unquote(name)] = None if value == _NULL else unquote(value)
    return tuple(columns.items())
