"""Checks what is made from the index: the card, and the tables that `load_dataset` reads."""

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from musicgen.dataset import paths
from musicgen.dataset.card import make_card
from musicgen.dataset.card_verification import CardState, compare_card
from musicgen.dataset.current_table import needs_current_table
from musicgen.dataset.gc_gate import find_gate
from musicgen.dataset.huggingface_table import TABLES, choose_table, is_marked, is_own_table, is_parquet
from musicgen.dataset.reader import Dataset
from musicgen.dataset.readme import load_yaml, read_front_matter
from musicgen.dataset.run_report import read_report
from musicgen.dataset.verification_report import Fault, VerificationReport
from musicgen.dataset.whole_file import describe_parquet_damage, open_whole, read_patiently
from musicgen.errors import StoreDenied, StoreError, StoreUnavailable
from musicgen.storage.parquet_reader import ParquetReader
from musicgen.storage.patience import SHORT_PATIENCE_S, wait_for_store


def check_derived(dataset: Dataset, report: VerificationReport, folder: Path) -> None:
    """Add the faults of tables and card to a report. An index with faults is not compared with them."""
    for path in TABLES:
        for text in _check_table(dataset, path, report.sound, folder):
            report.add(Fault("table", path, text))
    for text in _check_current_table(dataset, folder):
        report.add(Fault("table", paths.CURRENT_COPY, text))
    for path in (*TABLES, paths.CURRENT_COPY):
        if is_ruined_table(dataset, path):
            report.add(Fault("table", path, "the card names it, and it is no Parquet file any more"))
    if not dataset.info.has_own_checksums or not report.sound:  # an earlier release may have written the card
        return
    try:
        state = wait_for_store(lambda: _compare_card(dataset), SHORT_PATIENCE_S)
    except (StoreUnavailable, StoreDenied):
        raise
    except (StoreError, ValueError, KeyError, OSError, pa.ArrowException) as error:
        report.add(Fault("card", paths.README, f"the card cannot be compared with the index: {error}"))
        return
    for path, text in state.faults:
        report.add(Fault("table" if path.endswith(".parquet") else "card", path, text))
    report.notes += state.notes


def is_ruined_table(dataset: Dataset, path: str) -> bool:
    """Whether a file without our mark was a table of ours: the card names it, and nobody can read it."""
    if is_marked(dataset.store, path) is not False or is_parquet(dataset.store, path):
        return False
    for card_path in (paths.README, paths.README_BESIDE, paths.HUGGINGFACE_CONFIG):
        try:
            content = read_patiently(dataset.store, card_path).decode("utf-8-sig", "replace")
        except FileNotFoundError:
            continue
        keys = load_yaml(content) if card_path == paths.HUGGINGFACE_CONFIG else read_front_matter(content)
        if path in json.dumps((keys or {}).get("configs"), default=str):
            return True
    return False


def _compare_card(dataset: Dataset) -> CardState:
    """Compare card and needed table with the index, once a run was published."""
    published = [(report := read_report(dataset.store, run)) and report.published_at for run in dataset.runs()]
    if not any(published):
        return CardState()
    is_current = all(published) and find_gate(dataset.store) is None  # `gc` publishes at its end
    state = compare_card(dataset, make_card(dataset), is_current)
    table = choose_table(dataset)
    needed = [] if table.path is None else [table.path]
    if is_current and needs_current_table(dataset, table):
        needed.append(paths.CURRENT_COPY)
    for path in needed:
        if not dataset.store.exists(path):
            state.faults.append((path, "the table that `load_dataset` reads is missing"))
    return state


def _check_table(dataset: Dataset, path: str, is_sound: bool, folder: Path) -> Iterator[str]:
    try:
        with open_whole(dataset.store, path, folder) as file:
            if not is_own_table(dataset, path, file):
                return
            if damage := describe_parquet_damage(file, dataset.info.has_own_checksums):
                yield damage
                return
            reader = ParquetReader(file)
            key_column = "__key__" if "__key__" in reader.schema_arrow.names else "key"
            keys = iter(reader.iter_batches(16 if path == paths.HUGGINGFACE_COPY else 65536))
            table_keys = (key for batch in keys for key in batch.column(key_column).to_pylist())
            if is_sound and not _are_of_index(dataset, table_keys):
                yield "its clips are not those of the index"
            for _ in table_keys:  # to the end: each page is compared with its checksum
                pass
    except FileNotFoundError:
        return
    except (pa.ArrowException, ValueError, KeyError, OSError) as error:
        yield f"it cannot be read: {error}"


def _check_current_table(dataset: Dataset, folder: Path) -> Iterator[str]:
    """Yield what is wrong with the table of the latest manifest's rows, whose order is not the index's."""
    if not is_marked(dataset.store, paths.CURRENT_COPY):
        return
    try:
        with open_whole(dataset.store, paths.CURRENT_COPY, folder) as file:
            if damage := describe_parquet_damage(file, dataset.info.has_own_checksums):
                yield damage
                return
            for _ in ParquetReader(file).iter_batches(16):
                pass
    except (pa.ArrowException, ValueError, OSError) as error:
        yield f"it cannot be read: {error}"


def _are_of_index(dataset: Dataset, table_keys: Iterator[str]) -> bool:
    """Whether the keys are those of the index, in its order; those of the index may be more if a run is not published.

    Rows of the index are passed over: a run that was not published yet may have committed them since, and clips whose
    audio was gone are not in the table.
    """
    next_key = next(table_keys, None)
    for batch in dataset.batches(["key"]):
        for key in batch.column(0).to_pylist():
            if key == next_key:
                next_key = next(table_keys, None)
    return next_key is None
