"""Control characters are escaped in what is printed, and JSON stays JSON."""

import json

from flows.cli.safe_output import escape_controls


def test_json_with_control_characters_is_the_same_json() -> None:
    values = {"path": "a\x1b\x7f\x85\x9f\u202e\u2066\t\n\u00e9"}
    printed = escape_controls(json.dumps(values, ensure_ascii=False))
    assert printed.isprintable()
    assert json.loads(printed) == values
