"""Cells without a value, as programs write them: null, NaN, nothing, or a word for it."""

# Of pandas, R, Python, SQL, spreadsheets and MySQL. "na" counts in capitals only, since it is also a syllable to sing.
_WORDS = frozenset({"nan", "none", "null", "n/a", "<na>", "#n/a", "\\n"})
_LONGEST = 12  # no such word is longer, with some blanks around it
FIRST_CHARACTERS = frozenset("nN<#\\ \t\r\n")
"""A text that begins with another character is no such word: a fast test, for a million rows."""


def is_missing(value: object) -> bool:
    """Whether a cell of a number or a URI has no value: null, NaN, blank, or a word that stands for these."""
    if isinstance(value, str):
        return not value or value.isspace() or is_missing_word(value)
    return value is None or value != value


def is_missing_word(text: str) -> bool:
    """Whether a text is a word for "no value", such as nan, None, NULL, NA or N/A."""
    return (
        len(text) <= _LONGEST
        and text[:1] in FIRST_CHARACTERS
        and (text.strip().lower() in _WORDS or text.strip() == "NA")
    )


def refuse_missing_word(text: str, name: str) -> None:
    """Raise ValueError for a text that stands for "no value", where a text is wanted."""
    if is_missing_word(text):
        raise ValueError(f"{name} is {text!r}, which stands for no value; leave the cell empty if it has none")
