"""The records of a CSV file, one after the other; what cannot be read is one record, never its neighbor."""

import csv
import re
from collections.abc import Iterator
from typing import NamedTuple

from musicgen.errors import ManifestError
from musicgen.manifest.csv_dialect import CsvDialect
from musicgen.manifest.text_lines import MAX_LINE, MAX_RECORD, LineTooLong, RecordTooLong, TextLines

MAX_CELL = MAX_LINE  # a larger cell is nearly always a quote that was never closed
_READ_AGAIN = 256 << 20  # characters of a file; beyond it, its quotes make no sense at all
_ESCAPED_QUOTE = '\\"'
_ESCAPE_ADVICE = '; if a backslash escapes quotes here, say so: manifest.csv: {escape: "\\\\"}'


class Record(NamedTuple):
    """A record: the line where it begins, and its cells, or the reason why it has none."""

    line: int
    cells: list[str]
    fault: str = ""


class CsvRecords:
    """Reads the records of lines in a dialect, with `width` cells each once it is set (0: any number).

    A record that cannot be read is the line where it begins; the lines after it that were read with it are read again.
    """

    def __init__(self, lines: TextLines, dialect: CsvDialect, uri: str):
        csv.field_size_limit(max(csv.field_size_limit(), MAX_CELL))
        self.lines, self.dialect, self.uri = lines, dialect, uri
        self.width = 0
        self.ended = False
        self._reader = dialect.make_reader(_Escaped(lines, dialect) if dialect.escape else lines)
        self._read_again = 0

    def __iter__(self) -> Iterator[Record]:
        lines, reader, width = self.lines, self._reader, self.width
        while True:
            first_line = lines.number + 1
            lines.record = []
            try:
                cells = next(reader)
            except StopIteration:
                return
            except (csv.Error, LineTooLong, RecordTooLong) as error:
                yield Record(first_line, [], self._describe_fault(error, first_line))
                continue
            if cells and (len(cells) == width or not width):
                yield Record(first_line, cells)
            elif cells:
                yield Record(first_line, [], self._describe_width(len(cells), first_line))
            else:
                lines.skip_blank_lines()

    def read_rows(self, rows: list[list[str]], numbers: list[int], count: int, max_bytes: int) -> Record | None:
        """Append records and their lines until there are `count` rows, or `max_bytes` were read.

        Returns the next record instead if it cannot be read; None if enough rows were read, or the file has ended:
        then `ended` is true. It is the fast way of what `__iter__` does.
        """
        lines, reader, width = self.lines, self._reader, self.width
        add_row, add_number = rows.append, numbers.append
        left = count - len(rows)
        try:
            while left > 0 and lines.bytes <= max_bytes:
                first_line = lines.number + 1
                lines.record = []
                cells = next(reader)
                if len(cells) == width:
                    add_row(cells)
                    add_number(first_line)
                    left -= 1
                elif cells:
                    return Record(first_line, [], self._describe_width(len(cells), first_line))
                else:
                    lines.skip_blank_lines()
        except StopIteration:
            self.ended = True
        except (csv.Error, LineTooLong, RecordTooLong) as error:
            return Record(first_line, [], self._describe_fault(error, first_line))
        return None

    def _describe_width(self, cells: int, first_line: int) -> str:
        text = f"has {cells} cells, but the header has {self.width}"
        if not self._has_escaped_quote():
            return text
        return text + self._span(first_line) + _ESCAPE_ADVICE

    def _describe_fault(self, error: Exception, first_line: int) -> str:
        text = str(error)
        if isinstance(error, LineTooLong):
            reason = f"has a line of more than {MAX_LINE >> 20} MB"
        elif isinstance(error, RecordTooLong) or "field larger than" in text:
            size = MAX_RECORD if isinstance(error, RecordTooLong) else MAX_CELL
            reason = f"has more than {size >> 20} MB in one cell; is a quote left open in this row?"
        elif "unexpected end of data" in text:
            reason = "is broken CSV: a quote that is opened in this row is never closed"
        elif "new-line character" in text:
            reason = "is broken CSV: it has a bare carriage return outside of quotes"
        else:
            reason = f"is broken CSV: {text}"
        advice = _ESCAPE_ADVICE if self._has_escaped_quote() else ""
        return reason + self._span(first_line) + advice

    def _span(self, first_line: int) -> str:
        """Say which lines were read with the record, and have them read again."""
        last_line = self.lines.number
        self._read_again += self.lines.give_back()
        if self._read_again > _READ_AGAIN:
            raise ManifestError(
                f"{self.uri}:{first_line}: the quotes of this file do not match, from this line on or before; correct "
                "them, or say how the file is written: manifest.csv: {quote: ..., escape: ...}"
            )
        return f" (it was read with the lines up to {last_line})" if last_line > first_line else ""

    def _has_escaped_quote(self) -> bool:
        return not self.dialect.escape and any(_ESCAPED_QUOTE in line for line in self.lines.record)


class _Escaped:
    """Lines in which the escape character means what writers of CSV mean by it.

    It escapes quotes, delimiters, line ends and itself. Before any other character it is a character like others, as in
    `C:\\music` or MySQL's `\\N`; the standard library would drop it.
    """

    def __init__(self, lines: TextLines, dialect: CsvDialect):
        self._lines, self._escape = lines, dialect.escape
        escaped = f"{dialect.quote}{dialect.escape}{dialect.delimiter}\r\n"
        self._plain = re.compile(f"{re.escape(dialect.escape)}(?:([{re.escape(escaped)}])|(?=.|$))", re.DOTALL)

    def __iter__(self) -> "_Escaped":
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        return self._plain.sub(self._replace, line) if self._escape in line else line

    def _replace(self, match: "re.Match[str]") -> str:
        return match.group() if match.group(1) else self._escape * 2
