"""The types of the values in a job file: numbers with their ranges, and places that hold no credentials."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
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
}


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

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)
