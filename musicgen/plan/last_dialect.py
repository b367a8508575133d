"""The CSV dialect of a dataset's last run: a file that grows is read as before, so that its rows keep their keys."""

import json

from musicgen.dataset import paths
from musicgen.dataset.info import DatasetInfo
from musicgen.manifest.csv_dialect import CsvDialect
from musicgen.storage import Store
from musicgen.value_types import JsonObject

_FIRST_WITH_ORDER = 2  # the schema version since which every run has an entry in runs/order/


def read_last_dialect(store: Store, info: DatasetInfo | None) -> CsvDialect | None:
    """Return the dialect in which the last of a dataset's runs that had CSV files read them; None if there is none.

    A run of a release that knew one dialect only, whose plan says nothing of CSV, counts as one of the default.
    """
    if info is None:
        return None
    entries = sorted((file.path for file in store.list(paths.RUN_ORDER)), reverse=True)
    for entry in entries:
        plan: JsonObject = json.loads(store.read(entry))
        if "csv" not in plan:
            return CsvDialect()
        if plan["csv"] is not None:
            return CsvDialect.from_document(plan["csv"])
    return CsvDialect() if info.schema_version < _FIRST_WITH_ORDER else None
