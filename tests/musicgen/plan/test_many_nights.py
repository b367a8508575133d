"""What `plan`, `status` and publishing cost after three hundred nights, in requests and bytes."""

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from musicgen.dataset import huggingface_table, open_dataset
from musicgen.dataset.card import publish_card
from musicgen.dataset.folded_runs import FOLDED_AT_ONCE
from musicgen.dataset.status import run_statuses
from musicgen.plan.history import History
from musicgen.storage import Store, open_store, s3_store
from tests.fixtures.forged_nights import forge_night

NIGHTS, ROWS = 300, 10
PAGE = 1000  # names of a listing that one request gives


def count_requests(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count requests and the bytes that they read, from now on."""
    counter: Counter[str] = Counter()
    send, read_range = s3_store.send_request, s3_store.S3Store._read_range

    def count(*args: Any, **options: Any) -> Any:
        counter["requests"] += 1
        return send(*args, **options)

    def measure(*args: Any) -> Any:
        answer = read_range(*args)
        counter["bytes"] += len(answer[0])
        return answer

    monkeypatch.setattr(s3_store, "send_request", count)
    monkeypatch.setattr(s3_store.S3Store, "_read_range", measure)
    return counter


def measure_costs(
    store: Store, nights: int, parts: int, counter: Counter[str], folder: Path
) -> dict[str, tuple[int, int, float]]:
    """Publish a dataset of so many nights, and another night; returns requests, bytes read and seconds of each step."""
    costs: dict[str, tuple[int, int, float]] = {}

    def measure(name: str, step: Callable[[], object]) -> None:
        counter.clear()
        started = time.monotonic()
        step()
        costs[name] = counter["requests"], counter["bytes"], time.monotonic() - started
        print(f"{name}: {costs[name][0]:,} requests, {costs[name][1]:,} bytes, {costs[name][2]:.1f} s", flush=True)

    dataset = open_dataset(store.uri)
    measure("first publishing", lambda: publish_card(dataset))
    measure("status", lambda: run_statuses(dataset))
    measure("plan", lambda: History(store, folder).refresh())
    rows = sum(pq.read_metadata(path).num_rows for path in folder.glob("made-*.parquet"))
    assert rows == nights * parts * ROWS
    forge_night(store, nights, parts, ROWS)
    measure("publishing a night", lambda: publish_card(dataset))
    return costs


@pytest.mark.slow
@pytest.mark.parametrize(
    "parts",
    [
        pytest.param(4, marks=pytest.mark.timeout(590, func_only=True)),
        pytest.param(334, id="100,000 parts", marks=pytest.mark.timeout(3600, func_only=True)),
    ],
)
def test_three_hundred_nights_cost_what_the_last_ones_do(
    s3, parts: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(huggingface_table, "MAX_TABLE_ROWS", 1)
    store = open_store(s3.uri)
    for night in range(NIGHTS):
        forge_night(store, night, parts, ROWS, with_keys=True)
    costs = measure_costs(store, NIGHTS, parts, count_requests(monkeypatch), tmp_path)
    pages = NIGHTS * (parts + 5) // PAGE + 4
    assert costs["plan"][0] < pages + 2 * FOLDED_AT_ONCE
    assert costs["status"][0] < pages + 2 * FOLDED_AT_ONCE
    assert costs["publishing a night"][0] < 8 * pages + 4 * parts + 6 * FOLDED_AT_ONCE
    assert costs["first publishing"][0] < 2 * NIGHTS + 16 * pages
