"""Control characters are escaped in what is printed, and JSON stays JSON."""

import io
import json

from flows.cli.safe_output import EscapingStream, escape_controls


def test_json_with_control_characters_is_the_same_json() -> None:
    values = {"path": "a\x1b\x7f\x85\x9f\u202e\u2066\t\n\u00e9"}
    printed = escape_controls(json.dumps(values, ensure_ascii=False))
    assert printed.isprintable()
    assert json.loads(printed) == values


def test_the_reset_that_a_library_writes_at_the_end_is_not_printed() -> None:
    stream = io.StringIO()
    for text in ("a title with \x1b[0m\n", "\x1b[0m"):
        assert EscapingStream(stream).write(text) == len(text)  # type: ignore[arg-type]
    assert stream.getvalue() == "a title with \\x1b[0m\n"
