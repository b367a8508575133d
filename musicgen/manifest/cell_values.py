"""The numbers and texts of a row, from CSV (text), JSONL or Parquet (typed): "3", 3 and 3.0 are one number.

What is wrong with a value is raised as a ValueError with the reason.
"""

import math
import re
from collections.abc import Mapping
from decimal import Decimal

from musicgen.job_types import RANGES
from musicgen.manifest.missing_values import is_missing

_EXACT = 1 << 53  # beyond it, a floating-point number is a rounded one
_SPREADSHEET_DIGITS = 15  # what spreadsheets keep of a number; the others become zeros
_THOUSANDS = re.compile(r"[+-]?\d{1,3}([., '\u00a0\u202f\u2019]\d{3})+([.,]\d+)?")
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+")
_SPREADSHEET_POWER = re.compile(r"\d([.,]\d{1,14})?E\+\d{2,3}")


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
    cell = values[name]
    text = cell.strip() if isinstance(cell, str) else ""
    if isinstance(value, float):
        if not value.is_integer():
            raise ValueError(f"{name} is not a whole number: {quote_value(values[name])}")
        if abs(value) >= _EXACT or is_spreadsheet_power(text):
            raise ValueError(
                f"{name} {quote_value(cell)} was rounded on its way here; keep it as an integer or as text"
            )
        if _THOUSANDS.fullmatch(text):
            raise ValueError(
                f"{name} is {quote_value(cell)}, which may have a separator of thousands; write it without"
            )
        value = int(value)
    digits = text.lstrip("+-0")
    if len(digits) > _SPREADSHEET_DIGITS + 1 and not digits[_SPREADSHEET_DIGITS:].strip("0"):
        raise ValueError(
            f"{name} {quote_value(cell)} ends in zeros after {_SPREADSHEET_DIGITS} digits, as numbers do that a "
            "spreadsheet has rounded; take it from its source, or use JSONL"
        )
    limits = RANGES[name]
    if not limits.least <= value <= limits.most:
        raise ValueError(f"{name} is {quote_value(values[name])}; it must be between {limits.least} and {limits.most}")
    return value


def _parse_number(value: object, name: str) -> float | int | None:
    if is_missing(value):
        return None
    if isinstance(value, str):
        text = value.strip()
        try:
            if "_" in text or not text.isascii():
                raise ValueError
            if text.lstrip("+-").isdigit() and len(text) < 25:
                return int(text)
            number = float(text)
        except ValueError:
            raise ValueError(f"{name} is not a number: {quote_value(value)}{_explain(text)}") from None
        if number == 0 and re.search("[1-9]", text.lower().partition("e")[0]):
            raise ValueError(f"{name} is {quote_value(value)}, which is too close to 0; write 0")
        return number
    if isinstance(value, Decimal):
        try:
            return int(value) if value == value.to_integral_value() and abs(value) < 1 << 70 else float(value)
        except (ValueError, OverflowError, ArithmeticError):
            raise ValueError(f"{name} is not a number: {quote_value(value)}") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} is not a number: {quote_value(value)}")
    return value


def is_spreadsheet_power(text: str) -> bool:
    """Whether a text is a long number as a spreadsheet shows it, such as 1.23457E+11: its other digits are lost."""
    return _SPREADSHEET_POWER.fullmatch(text) is not None and int(text.rpartition("+")[2]) > 10


def _explain(text: str) -> str:
    """Say how a text that is no number became one, if a spreadsheet or its country did it."""
    if _DECIMAL_COMMA.fullmatch(text):
        return "; write a decimal point, and no separators of thousands"
    if _THOUSANDS.fullmatch(text):
        return "; write it without separators of thousands"
    return ""


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
