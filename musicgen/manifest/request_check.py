"""Checks the requests of the Python API as the rows of a manifest are checked."""

from dataclasses import fields, replace

import numpy as np

from musicgen.errors import RowError
from musicgen.job_types import MAX_PROMPT, RANGES
from musicgen.manifest.cell_values import check_text, quote_value, read_finite_number, read_integer, read_number
from musicgen.request import Request

LONGEST_S = 36_000.0  # the most that a job can allow its rows (generation.max_duration_s)
_DEFAULTS = Request()


def check_request(request: Request) -> Request:
    """Return the request with its numbers as Python's own, None being the default of each.

    Raises `RowError` (invalid) for a number outside of the range that it has in a manifest, and for a prompt that is no
    text or too long.
    """
    values = {field.name: _to_python(getattr(request, field.name)) for field in fields(request)}
    try:
        _check_prompt(values["prompt"], "prompt")
        _check_prompt(values["negative_prompt"], "negative_prompt")
        return replace(
            request,
            duration_s=_read_seconds(values, "duration_s", _DEFAULTS.duration_s),
            stride_s=_read_seconds(values, "stride_s", _DEFAULTS.stride_s),
            sample=_read_sample(values["sample"]),
            seed=None if values["seed"] is None else read_integer(values, "seed", 0),
            temperature=read_number(values, "temperature", _DEFAULTS.temperature),
            top_k=read_integer(values, "top_k", _DEFAULTS.top_k),
            top_p=read_number(values, "top_p", _DEFAULTS.top_p),
            guidance_scale=read_number(values, "guidance_scale", _DEFAULTS.guidance_scale),
            steps=None if values["steps"] is None else read_integer(values, "steps", 0),
        )
    except ValueError as error:
        raise RowError("invalid", str(error)) from None


def _to_python(value: object) -> object:
    return value.item() if isinstance(value, np.generic) else value


def _check_prompt(value: object, name: str) -> None:
    if not isinstance(value, str):
        raise ValueError(f"{name} is not text: {quote_value(value)}")
    if len(value) > MAX_PROMPT:
        raise ValueError(f"{name} has {len(value)} characters; at most {MAX_PROMPT} are allowed")
    check_text(value, name)


def _read_seconds(values: dict[str, object], name: str, default: float) -> float:
    seconds = read_finite_number(values, name)
    if seconds is None:
        return default
    if not 0 < seconds <= LONGEST_S:
        raise ValueError(f"{name} is {quote_value(values[name])}; it must be more than 0 and at most {LONGEST_S:g}")
    return seconds


def _read_sample(value: object) -> int:
    most = RANGES["samples"].most - 1
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise ValueError(f"sample is {quote_value(value)}; it must be a whole number between 0 and {most}")
    return value
