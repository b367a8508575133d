"""Names for values whose parts have no static type: rows of tables, JSON objects, arrays of codes.

They hold `Any`; mypy refuses it elsewhere (`disallow_any_explicit`).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

TableRow = dict[str, Any]
"""A row of a table as pyarrow gives it: values by the name of their column."""

JsonObject = dict[str, Any]
"""An object of a JSON or YAML document."""

Codes = NDArray[np.integer]
"""Codes of an RVQ codec, [..., codebooks, frames], of any integer type."""
