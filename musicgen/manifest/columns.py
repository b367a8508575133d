"""Which columns of a manifest mean something, and what becomes of the others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from musicgen.errors import ManifestError
from musicgen.job import ROW_FIELDS
from musicgen.job_keys import suggest_nearest


@dataclass(frozen=True, slots=True)
class ColumnMap:
    """The job's `manifest.columns`: our field -> the manifest's column. Fields not named there keep their own name."""

    mapping: Mapping[str, str]
    prompt_required: bool = True

    def column(self, field: str) -> str:
        """The manifest's name of a field."""
        return self.mapping.get(field, field)

    def required(self) -> list[str]:
        """The columns that must be there: the prompt, and whatever the job names."""
        fields = {*self.mapping, *(("prompt",) if self.prompt_required else ())}
        return [self.column(field) for field in ROW_FIELDS if field in fields]

    def fields(self) -> dict[str, str]:
        """Every column that means something -> its field. A column given to one field is not another's by its name."""
        taken = set(self.mapping.values())
        named = {column: field for field, column in self.mapping.items()}
        own = {field: field for field in ROW_FIELDS if field not in self.mapping and field not in taken}
        return {**own, **named}

    def check(self, columns: Sequence[str], where: str) -> None:
        """Raise `ManifestError` if a needed column is not among these, or one is there twice."""
        for column in columns:
            if columns.count(column) > 1:
                raise ManifestError(f"{where}: the column `{column}` is there twice; rename one")
        for column in self.required():
            if column not in columns:
                there = ", ".join(f"`{name}`" for name in columns[:30]) or "none"
                more = ", ..." if len(columns) > 30 else ""
                hint = suggest_nearest(column, columns)
                advice = (
                    "" if column in self.mapping.values() else "; map yours with manifest.columns: {prompt: its name}"
                )
                raise ManifestError(f"{where}: there is no column `{column}`{hint or advice} (columns: {there}{more})")
