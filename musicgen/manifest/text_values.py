"""Texts and ids of typed cells: what engines store where a text is meant, such as bytes, decimals and UUIDs."""

from collections.abc import Callable
from decimal import Decimal
from typing import ParamSpec, TypeVar
from uuid import UUID

from musicgen.errors import RowError
from musicgen.manifest.cell_values import is_spreadsheet_power, quote_value
from musicgen.manifest.missing_values import refuse_missing_word

_EXACT = 1 << 53
_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def check_cell(
    check: Callable[_Arguments, _Result], *arguments: _Arguments.args, **options: _Arguments.kwargs
) -> _Result:
    """Call a function that raises ValueError with the reason why a cell makes its row invalid; raises `RowError`."""
    try:
        return check(*arguments, **options)
    except ValueError as error:
        raise RowError("invalid", str(error)) from None


def to_text(value: object) -> object:
    """Return a cell's text: bytes that are UTF-8 decoded, since old engines do not mark text; NaN is null.

    Other values are returned as they are.
    """
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value
    return None if value != value else value


def to_id(value: object) -> str | None:
    """Return a row's id as text; None for a cell without one. Raises ValueError for what is no id."""
    value = to_text(value)
    if value is None or value == "":
        return None
    if isinstance(value, str):
        refuse_missing_word(value, "id")
        if is_spreadsheet_power(value):
            raise ValueError(f"id is {value!r}, a number that a spreadsheet has shortened; take it from its source")
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        return str(int(value))  # pandas turns integers into floats where another cell of the column is empty
    if isinstance(value, Decimal) and value.is_finite() and value == value.to_integral_value():
        return str(int(value))
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, bool) or not isinstance(value, int):
        rounded = "; it was rounded on its way here" if isinstance(value, float) and abs(value) >= _EXACT else ""
        raise ValueError(f"id is neither text nor a whole number: {quote_value(value)}{rounded}")
    return str(value)
