"""What `plan` and `run` say about a manifest's columns."""

from collections.abc import Mapping, Sequence

COLUMNS_SHOWN = 50


def describe_columns(
    used: Mapping[str, str], carried: Sequence[str], near_misses: Sequence[str], left_out: Sequence[str]
) -> list[str]:
    """Say which columns of a manifest are read as what, which are carried, and which may be meant otherwise.

    `left_out` are names of folders (Hive partitions) that the dataset was begun without.
    """
    read = [field if field == column else f"{field} (from {column})" for field, column in used.items()]
    lines = [f"Columns that are read: {', '.join(read)}."]
    if carried:
        more = f" and {len(carried) - COLUMNS_SHOWN} more" if len(carried) > COLUMNS_SHOWN else ""
        lines.append(f"Columns that are carried into the index: {', '.join(carried[:COLUMNS_SHOWN])}{more}.")
    if left_out:
        lines.append(f"Columns in the names of folders, which the dataset was begun without: {', '.join(left_out)}.")
    return [*lines, *(f"{text[:1].upper()}{text[1:]}." for text in near_misses[:COLUMNS_SHOWN])]


def describe_growth(added: Sequence[str], lacking: Sequence[str], not_carried: Sequence[str]) -> list[str]:
    """Say which carried columns the dataset has not had so far, which the manifest lacks, and which are left out."""
    texts = (
        ("Columns that the dataset gets from this run on", added),
        ("Columns of the dataset that the manifest lacks, which are null", lacking),
        ("Columns that are neither read nor carried", not_carried),
    )
    return [f"{text}: {', '.join(names[:COLUMNS_SHOWN])}." for text, names in texts if names]
