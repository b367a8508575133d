"""The types of the values in a job file: numbers with their ranges, and places that hold no credentials."""

import codecs
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator
from pydantic.fields import FieldInfo

from musicgen.job_file import reveals_secret

MAX_SEED = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Range:
    """The values that a number may have, both ends included."""

    least: int
    most: int

    def as_field(self) -> FieldInfo:
        """Return the range as a constraint of pydantic."""
        field: FieldInfo = Field(ge=self.least, le=self.most)
        return field


# Of a row's values, and of the job's defaults for them.
RANGES: Mapping[str, Range] = {
    "samples": Range(1, 10_000),
    "seed": Range(0, MAX_SEED),
    "temperature": Range(0, 100),
    "top_k": Range(0, 1_000_000),
    "top_p": Range(0, 1),
    "guidance_scale": Range(0, 100),
    "steps": Range(1, 1000),
}
MAX_PROMPT = 8192  # characters of a prompt; encoders read a few hundred tokens


def _refuse_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    return value


def refuse_secret(value: str) -> str:
    """Return the value. Raises ValueError if it is a URI with credentials."""
    reason = reveals_secret(value)
    if reason:
        raise ValueError(reason)
    return value


def make_absolute(uri: str) -> str:
    """Return a local path as an absolute one, since workers have another working directory; a URI as it is."""
    if "://" in uri:
        return uri
    return os.path.abspath(os.path.expanduser(uri))


def _check_uri(value: str) -> str:
    if not value.strip():
        raise ValueError("is empty")
    return make_absolute(refuse_secret(value))


Auto = Literal["auto"]
Number = Annotated[float, BeforeValidator(_refuse_bool), Field(allow_inf_nan=False)]
Whole = Annotated[int, BeforeValidator(_refuse_bool)]
PositiveInt = Annotated[Whole, Field(ge=1)]
PositiveNumber = Annotated[Number, Field(gt=0)]
UriOrPath = Annotated[str, Field(min_length=1), AfterValidator(_check_uri)]


class Section(BaseModel):
    """A section of a job file: frozen; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True, use_attribute_docstrings=True)


_DELIMITERS = {"tab": "\t", "\\t": "\t"}
FOUND_DELIMITERS = (",", ";", "\t", "|")  # those that are tried if the job says none
_NOT_DELIMITERS = frozenset('"\r\n\\')


class CsvSettings(Section):
    """How the CSV files of a manifest are written. What is null is found out, or as in the dataset's last run."""

    delimiter: str | None = None
    """One character, or `tab`."""
    quote: Annotated[str, Field(max_length=1)] | None = None
    """The quotation mark; an empty text: cells are not quoted."""
    escape: Annotated[str, Field(max_length=1)] | None = None
    """What stands before a quotation mark inside quotes, such as a backslash; empty, or the mark: it is doubled."""
    encoding: str | None = None
    """The encoding, such as cp1252; a byte order mark counts more."""
    header: Annotated[Whole, Field(ge=1)] | Annotated[list[str], Field(min_length=1)] | None = None
    """The line of the header, or the names of the columns of files without one."""

    @field_validator("delimiter")
    @classmethod
    def _check_delimiter(cls, value: str | None) -> str | None:
        value = _DELIMITERS.get(value, value) if value else value
        if value is not None and (len(value) != 1 or value in _NOT_DELIMITERS):
            raise ValueError("must be one character, such as ; or tab")
        return value

    @field_validator("quote", "escape")
    @classmethod
    def _check_mark(cls, value: str | None) -> str | None:
        if value in ("\r", "\n"):
            raise ValueError("must be one character, and no end of a line")
        return value

    @model_validator(mode="after")
    def _check_marks_differ(self) -> "CsvSettings":
        delimiters = FOUND_DELIMITERS if self.delimiter is None else (self.delimiter,)
        for name, mark in (("quote", self.quote), ("escape", self.escape)):
            if mark in delimiters:
                raise ValueError(f"`{name}` is {mark}, which may be the delimiter; they must differ: say both")
        return self

    @field_validator("encoding")
    @classmethod
    def _check_encoding(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            info = codecs.lookup(value)
            "".encode(value)  # not all codecs are of text
            codecs.getincrementaldecoder(value)("backslashreplace").decode(b"\xff", True)  # nor of pieces, with faults
        except (LookupError, UnicodeError):
            raise ValueError(f"`{value}` is no text encoding that Python knows, such as utf-8 or cp1252") from None
        return info.name
