"""The columns of a manifest that are fields of a row; all others are carried into the index."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from musicgen.errors import ManifestError
from musicgen.job import ROW_FIELDS
from musicgen.job_keys import suggest_nearest

_SHOWN_COLUMNS = 30


@dataclass(frozen=True, slots=True)
class ColumnMap:
    """The job's `manifest.columns`: field of a row -> column of the manifest. Others have columns of their own name."""

    mapping: Mapping[str, str]
    prompt_required: bool = True

    def column(self, field: str) -> str:
        """Return the manifest's column of a field."""
        return self.mapping.get(field, field)

    def required(self) -> list[str]:
        """Return the columns that a manifest must have: the prompt's, and those that the job names."""
        fields = {*self.mapping, *(("prompt",) if self.prompt_required else ())}
        return [self.column(field) for field in ROW_FIELDS if field in fields]

    def fields(self) -> dict[str, str]:
        """Return column -> field. A column that the job gives to one field is not that of another field of its name."""
        mapped = {column: field for field, column in self.mapping.items()}
        unmapped = {field: field for field in ROW_FIELDS if field not in self.mapping and field not in mapped}
        return {**unmapped, **mapped}

    def check(self, columns: Sequence[str], source: str) -> None:
        """Raise `ManifestError`, which names `source`, if a required column is absent, or one is there twice."""
        for column in columns:
            if columns.count(column) > 1:
                raise ManifestError(f"{source}: the column `{column}` is there twice; rename one")
        for column in self.required():
            if column not in columns:
                present = ", ".join(f"`{name}`" for name in columns[:_SHOWN_COLUMNS]) or "none"
                more = ", ..." if len(columns) > _SHOWN_COLUMNS else ""
                hint = suggest_nearest(column, columns)
                advice = (
                    "" if column in self.mapping.values() else "; map yours with manifest.columns: {prompt: its name}"
                )
                raise ManifestError(
                    f"{source}: there is no column `{column}`{hint or advice} (columns: {present}{more})"
                )
