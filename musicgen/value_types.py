"""Names for values whose parts have no static type: rows of tables and JSON objects.

They hold `Any`; mypy refuses it elsewhere (`disallow_any_explicit`).
"""

from typing import Any

TableRow = dict[str, Any]
"""A row of a table as pyarrow gives it: values by the name of their column."""

JsonObject = dict[str, Any]
"""An object of a JSON or YAML document."""
