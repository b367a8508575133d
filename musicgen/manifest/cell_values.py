"""The numbers and texts of a row, from CSV (text), JSONL or Parquet (typed): "3", 3 and 3.0 are one number.

What is wrong with a value is raised as a ValueError with the reason.
"""

import math
from collections.abc import Mapping
from decimal import Decimal

from musicgen.job_types import RANGES


def read_number(values: Mapping[str, object], name: str, default: float) -> float:
    """Return the number `name` of a row, which is in its range (`RANGES`); `default` for a cell without one."""
    number = read_finite_number(values, name)
    if number is None:
        return float(default)
    limits = RANGES[name]
    if number < limits.least:
        raise ValueError(f"{name} is {quote_value(values[name])}; it must be at least {limits.least:g}")
    if number > limits.most:
        raise ValueError(f"{name} is {quote_value(values[name])}; it must be at most {limits.most:g}")
    return number


def read_finite_number(values: Mapping[str, object], name: str) -> float | None:
    """Return the number `name` of a row; None for a cell without one."""
    value = _parse_number(values.get(name), name)
    if value is None:
        return None
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{name} is not a finite number: {quote_value(values[name])}")
    return number


def read_integer(values: Mapping[str, object], name: str, default: int) -> int:
    """Return the whole number `name` of a row, which is in its range (`RANGES`); `default` for a cell without one."""
    value = _parse_number(values.get(name), name)
    if value is None:
        return default
    if isinstance(value, float):
        if not value.is_integer():
            raise ValueError(f"{name} is not a whole number: {quote_value(values[name])}")
        value = int(value)
    limits = RANGES[name]
    if not limits.least <= value <= limits.most:
        raise ValueError(f"{name} is {quote_value(values[name])}; it must be between {limits.least} and {limits.most}")
    return value


def _parse_number(value: object, name: str) -> float | int | None:
    if value is None or value == "":
        return None
    if isinstance(value, str):
        text = value.strip()
        if not text:
            return None
        try:
            if "_" in text or not text.isascii():
                raise ValueError
            return int(text) if text.lstrip("+-").isdigit() and len(text) < 25 else float(text)
        except ValueError:
            raise ValueError(f"{name} is not a number: {quote_value(value)}") from None
    if isinstance(value, Decimal):
        try:
            return float(value)
        except (ValueError, OverflowError):
            raise ValueError(f"{name} is not a number: {quote_value(value)}") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} is not a number: {quote_value(value)}")
    return value


def check_text(value: str, name: str) -> None:
    """Raise ValueError for a text that UTF-8 cannot hold."""
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{name} is not valid UTF-8") from None


def quote_value(value: object) -> str:
    """Return a value for a message, short and on one line."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
