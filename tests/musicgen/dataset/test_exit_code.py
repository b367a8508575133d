"""A script that reads a dataset ends with its own exit code."""

import subprocess
import sys

import pytest

from tests.musicgen.dataset.conftest import Maker


@pytest.mark.slow
def test_reading_a_dataset_leaves_the_exit_code_alone(make: Maker) -> None:
    """With pyarrow's own threads 3 to 5 of 100 such scripts were aborted (test_parquet_reader.py has the reason)."""
    for shard in range(4):
        make.shard(shard=shard)
    code = f"import musicgen.dataset as d; assert d.open_dataset({make.store.uri!r}).to_arrow().num_rows"
    for _ in range(10):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
