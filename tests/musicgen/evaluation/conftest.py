"""A small corpus, analyzed once."""

from pathlib import Path

import pytest

from musicgen.evaluation import Reference
from tests.musicgen.evaluation import band

SECONDS = 5.0


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 clips of 5 s, half of them unseen: three instruments, major and minor, each with a beat."""
    return band.write(tmp_path_factory.mktemp("band") / "corpus", 48, SECONDS)


@pytest.fixture(scope="session")
def reference(corpus: Path) -> Reference:
    """The unseen half as the judges hear it."""
    return Reference.of(corpus, clips=24, seed=3, seconds=SECONDS, processes=1)
