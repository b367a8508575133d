"""What pydantic says about a job or a recipe, in one line with file and line."""

from pydantic import ValidationError

from musicgen.job_file import JobDocument, redact_credentials

_MESSAGES = {
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "finite_number": "must be a finite number",
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "string_type": "must be text",
    "string_too_short": "is empty",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "literal_error": "must be {expected}",
    "missing": "is missing",
    "extra_forbidden": "is not a known key",
    "model_type": "must be a section of `key: value` lines",
    "dict_type": "must be a mapping such as {{prompt: caption}}",
    "tuple_type": "must be a list",
}


def describe_errors(error: ValidationError, document: JobDocument) -> str:
    """Return one line for all errors that pydantic found, each with file and line, and each key once."""
    texts_by_key: dict[tuple[str, ...], list[str]] = {}
    for item in error.errors(include_url=False, include_input=False):
        key = tuple(document.known_path([str(step) for step in item["loc"]]))
        text = _MESSAGES[item["type"]].format(**item.get("ctx", {})) if item["type"] in _MESSAGES else item["msg"]
        texts_by_key.setdefault(key, []).append(text.removeprefix("Value error, "))
    lines = []
    for key, texts in texts_by_key.items():
        shown = document.show_value(key)
        given = f" (it is {redact_credentials(shown)})" if shown is not None else ""
        lines.append(f"{document.origin(key)}`{'.'.join(key)}` {' or '.join(dict.fromkeys(texts))}{given}")
    return "; ".join(lines)
