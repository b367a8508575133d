"""Chooses the dialect of a manifest's CSV files: as the job says, as in the dataset's last run, or as it is found out.

All CSV files of a manifest have one dialect. It is the default unless the header then lacks our columns, or a row
cannot be read; another one is taken only if every record of every file has as many cells as the header.
"""

import csv
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from musicgen.errors import ManifestError
from musicgen.job_types import FOUND_DELIMITERS, CsvSettings
from musicgen.manifest.columns import ColumnMap
from musicgen.manifest.csv_dialect import CsvDialect, DialectChanged
from musicgen.manifest.csv_header import read_header
from musicgen.manifest.csv_records import CsvRecords, Record
from musicgen.manifest.files import ManifestFile, open_text
from musicgen.manifest.text_lines import LineTooLong, TextLines

_QUOTING = (('"', "\\"), ("", ""), ("", "\\"), ("'", ""), ("'", "\\"))  # (quote, escape)
_PREAMBLE_LINES = 20
_DEFAULT = CsvDialect()


class DialectChoice:
    """The dialect of a manifest's CSV files, which is chosen when the first one is read.

    `settings` are the job's. `read_last` reads the dialect of the dataset's last run, None if it has had none with CSV.
    """

    def __init__(
        self,
        settings: CsvSettings | None = None,
        read_last: Callable[[], CsvDialect | None] = lambda: None,
        may_change: bool = True,
    ):
        self.settings = settings or CsvSettings()
        self.read_last = read_last
        self.dialect: CsvDialect | None = None
        self.finds_out = self._may_change = may_change
        self._files: Sequence[ManifestFile] = ()
        self._columns = ColumnMap({})

    def prepare(self, files: Sequence[ManifestFile], columns: ColumnMap) -> None:
        """Give the files that the dialect is for, before the first one is read."""
        self._files, self._columns = files, columns

    def choose(self) -> CsvDialect:
        """Return the dialect. Raises `ManifestError` if the last run's does not fit, and another one would."""
        if self.dialect is None:
            self.dialect = self._choose()
        return self.dialect

    def doubt(self) -> None:
        """Say that a row cannot be read. Raises `DialectChanged` if all rows can be read in another dialect."""
        if not self._may_change:
            return
        self._may_change = False
        base = self.choose()
        for quote, escape in _QUOTING:
            other = replace(base, quote=quote, escape=escape)
            if other != base and self._fits_all(other):
                self.dialect = other
                raise DialectChanged(other.describe())

    def _choose(self) -> CsvDialect:
        default = replace(_DEFAULT, delimiter="\t") if self._files[0].has_tabs else _DEFAULT
        last = self.read_last()
        if last == _DEFAULT and self._files[0].has_tabs:
            last = None  # that of other files, since no release that knew commas only has read files of this name
        given = {name for name, value in self.settings.model_dump().items() if value is not None}
        base = CsvDialect.of(self.settings, last or default)
        self._may_change &= last is None and given.isdisjoint({"quote", "escape"})
        if self._has_columns(base):
            return base
        fitting = self._find(base) if self.finds_out else None
        if fitting is not None and last is not None and not given:
            raise ManifestError(
                f"{self._files[0].uri}: is read as {fitting.describe()}, but the dataset's last run read "
                f"{last.describe()}; if the file is right, say so: {fitting.as_setting()}"
            )
        return base if fitting is None or last is not None else fitting

    def _find(self, base: CsvDialect) -> CsvDialect | None:
        """Return a dialect in which all files can be read: of another delimiter, quote or header line.

        What the job says stays. Raises `ManifestError` if only some rows could not be read in it.
        """
        settings, misfit = self.settings, ""
        delimiters = (base.delimiter,) if settings.delimiter else dict.fromkeys((base.delimiter, *FOUND_DELIMITERS))
        quotes = (base.quote,) if settings.quote is not None else ('"', "'")
        escapes = (base.escape,) if settings.escape is not None else ("", "\\")
        for delimiter in delimiters:
            for quote in quotes:
                other = replace(base, delimiter=delimiter, quote=quote)
                if settings.header is None:
                    if not (line := self._find_header(other)):
                        continue
                    other = replace(other, header=line if line > 1 else 0)
                for escape in escapes:
                    reason = self._describe_misfit(candidate := replace(other, escape=escape))
                    if not reason:
                        return candidate
                    misfit = misfit or f"{reason}; to read it so all the same, say {other.as_setting()}"
        if misfit:
            raise ManifestError(misfit)
        return None

    def _find_header(self, dialect: CsvDialect) -> int:
        """Return the line that holds our columns in a dialect, among the first ones of the first file; 0 if none."""
        with open_text(self._files[0], dialect.encoding) as raw:
            lines = TextLines(raw)
            for number in range(1, _PREAMBLE_LINES + 1):
                lines.record = []
                try:
                    text = next(lines, None)
                    if text is None:
                        return 0
                    cells: list[str] = next(dialect.make_reader([text]), [])
                except (csv.Error, LineTooLong):
                    continue
                if self._columns.are_in([cell.strip() for cell in cells], self._files[0].partitions):
                    return number
        return 0

    def _has_columns(self, dialect: CsvDialect) -> bool:
        with open_text(self._files[0], dialect.encoding) as raw:
            try:
                header = read_header(CsvRecords(TextLines(raw), dialect, self._files[0].uri), self._files[0].uri)
            except ManifestError:
                return False
        return not header or self._columns.are_in(header, self._files[0].partitions)

    def _fits_all(self, dialect: CsvDialect) -> bool:
        return not self._describe_misfit(dialect)

    def _describe_misfit(self, dialect: CsvDialect) -> str:
        """Return where a file cannot be read in a dialect; empty if every record has as many cells as the header."""
        for file in self._files:
            with open_text(file, dialect.encoding) as raw:
                records = CsvRecords(TextLines(raw), dialect, file.uri)
                try:
                    header = read_header(records, file.uri)
                    if header:
                        self._columns.check(header, file.uri, file.partitions)
                    records.width = len(header)
                    if len(header) == 1 and dialect.quote != _DEFAULT.quote:  # any line would fit
                        return f"{file.uri} has one column, whose cells may have quotes"
                    fault = next(filter(None, map(partial(_find_fault, dialect), records)), None)
                except ManifestError as error:
                    return str(error)
                if fault is not None:
                    line, reason = fault
                    return f"{file.uri}:{line}: the file looks like CSV ({dialect.describe()}), but this row {reason}"
        return ""


def _find_fault(dialect: CsvDialect, record: Record) -> tuple[int, str] | None:
    """Return the line of a record and why it speaks against the dialect; None if it does not."""
    if not record.fault and dialect.quote != '"':
        quoted = next((cell for cell in record.cells if len(cell) > 1 and cell[0] == cell[-1] == '"'), None)
        return None if quoted is None else (record.line, "has a cell in double quotes")
    return (record.line, record.fault) if record.fault else None
