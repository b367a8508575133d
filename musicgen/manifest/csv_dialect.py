"""The dialect of a CSV manifest: delimiter, quote, escape, encoding and header."""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace

from musicgen.job_types import CsvSettings

_NAMES = {"\t": "tab", ",": "comma", ";": "semicolon", "|": "bar", " ": "space"}


@dataclass(frozen=True, slots=True)
class CsvDialect:
    """How a CSV file is written. The default is RFC 4180: comma, double quotes that are doubled inside a cell, UTF-8.

    An empty `quote` means that no cell is quoted, an empty `escape` that no character escapes another. `header` is the
    line of the header from 1, or the names of the columns of files that have none; 0 is the first line that is not
    empty.
    """

    delimiter: str = ","
    quote: str = '"'
    escape: str = ""
    encoding: str = "utf-8"
    header: int | tuple[str, ...] = 0

    @classmethod
    def of(cls, settings: CsvSettings, base: "CsvDialect") -> "CsvDialect":
        """Return the dialect of a job's `manifest.csv`; what it leaves out is that of `base`."""
        given = {name: value for name, value in settings.model_dump().items() if value is not None}
        dialect = cls.from_document({**asdict(base), **given})
        # A quote that escapes itself is a doubled one, as Spark's `escape` has it.
        return replace(dialect, escape="") if dialect.escape == dialect.quote else dialect

    @classmethod
    def from_document(cls, document: Mapping[str, object]) -> "CsvDialect":
        """Return the dialect that `to_document` wrote."""
        header = document.get("header", 0)
        return cls(
            delimiter=str(document.get("delimiter", ",")),
            quote=str(document.get("quote", '"')),
            escape=str(document.get("escape", "")),
            encoding=str(document.get("encoding", "utf-8")),
            header=tuple(str(name) for name in header) if isinstance(header, list | tuple) else int(str(header)),
        )

    def to_document(self) -> dict[str, object]:
        """Return the dialect as values for JSON."""
        return asdict(self) | {"header": self.header if isinstance(self.header, int) else list(self.header)}

    def make_reader(self, lines: Iterable[str]) -> Iterator[list[str]]:
        """Return a strict reader of the standard library for lines of this dialect."""
        return csv.reader(
            lines,
            delimiter=self.delimiter,
            quotechar=self.quote or None,
            quoting=csv.QUOTE_MINIMAL if self.quote else csv.QUOTE_NONE,
            escapechar=self.escape or None,
            strict=True,
        )

    def describe(self) -> str:
        """Return the dialect in words, such as "comma, quote \\", utf-8"."""
        parts = [_NAMES.get(self.delimiter, repr(self.delimiter)), f"quote {self.quote}" if self.quote else "no quotes"]
        if self.escape:
            parts.append(f"escape {self.escape}")
        parts.append(self.encoding)
        if not isinstance(self.header, int):
            parts.append("no header")
        elif self.header > 1:
            parts.append(f"header in line {self.header}")
        return ", ".join(parts)

    def as_setting(self) -> str:
        """Return what to write into a job file for this dialect, as far as it is not the default."""
        default = CsvDialect().to_document()
        other = {name: value for name, value in self.to_document().items() if value != default[name]}
        values = other or {"delimiter": self.delimiter}
        return "manifest.csv: {" + ", ".join(f"{name}: {json.dumps(value)}" for name, value in values.items()) + "}"


class DialectChanged(Exception):
    """Raised while a manifest is read: it is of another dialect than was thought, and has to be read again."""
