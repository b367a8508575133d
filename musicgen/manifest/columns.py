"""The columns of a manifest that are fields of a row; all others are carried into the index."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from musicgen.errors import ManifestError
from musicgen.job_keys import suggest_nearest
from musicgen.job_sections import ROW_FIELDS
from musicgen.manifest.near_misses import find_same_name

_SHOWN_COLUMNS = 30
Partitions = Sequence[tuple[str, str | None]]  # columns and values in the names of a file's folders


@dataclass(frozen=True, slots=True)
class ColumnMap:
    """The job's `manifest.columns`: field of a row -> column of the manifest. Others have columns of their own name.

    A column of a field that the model's family does not read is carried.
    """

    mapping: Mapping[str, str]
    prompt_required: bool = True
    row_fields: frozenset[str] = frozenset(ROW_FIELDS)  # those that the model's family reads

    def column(self, field: str) -> str:
        """Return the manifest's column of a field."""
        return self.mapping.get(field, field)

    def required(self) -> list[str]:
        """Return the columns that a manifest must have: the prompt's, and those that the job names."""
        fields = {*self.mapping, *(("prompt",) if self.prompt_required else ())}
        return [self.column(field) for field in ROW_FIELDS if field in fields]

    def fields(self) -> dict[str, str]:
        """Return column -> field. A column that the job gives to one field is not that of another field of its name."""
        mapped = {column: field for field, column in self.mapping.items() if field in self.row_fields}
        own = [field for field in ROW_FIELDS if field in self.row_fields]
        unmapped = {field: field for field in own if field not in self.mapping and field not in mapped}
        return {**unmapped, **mapped}

    def are_in(self, columns: Sequence[str], partitions: Partitions = ()) -> bool:
        """Whether these are a manifest's columns: the required ones are among them, and at least one of ours."""
        present = set(columns)
        return present.union(name for name, _ in partitions).issuperset(self.required()) and not present.isdisjoint(
            self.fields()
        )

    def check(self, columns: Sequence[str], source: str, partitions: Partitions = ()) -> None:
        """Raise `ManifestError`, which names `source`, if a required column is absent, or one is there twice.

        `partitions` are columns in the names of folders, which `manifest.columns` may name.
        """
        twice = [column for column, count in Counter(columns).items() if count > 1]
        if twice:
            raise ManifestError(f"{source}: the column `{twice[0]}` is there twice; rename one")
        present_columns = set(columns).union(name for name, _ in partitions if name in self.mapping.values())
        for column in self.required():
            if column not in present_columns:
                present = ", ".join(f"`{name}`" for name in columns[:_SHOWN_COLUMNS]) or "none"
                more = ", ..." if len(columns) > _SHOWN_COLUMNS else ""
                same = find_same_name(column, columns)
                hint = f"; did you mean {_quote(same)}?" if same else suggest_nearest(column, columns)
                advice = (
                    "" if column in self.mapping.values() else "; map yours with --set manifest.columns.prompt=ITS_NAME"
                )
                raise ManifestError(
                    f"{source}: there is no column `{column}`{hint or advice} (columns: {present}{more})"
                )


def _quote(name: str) -> str:
    """Quote a name; one that looks like another is shown by its code points."""
    return f"`{name}`" if name.isascii() else ascii(name)
