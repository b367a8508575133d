"""Checkpoints for the tests of the library, each written once per session."""

import shutil
from collections.abc import Iterator

import pytest

from musicgen.model.checkpoint.identity import cache_folder
from tests.fixtures.checkpoints import deeper_checkpoint, melody_checkpoint, stereo_checkpoint, text_checkpoint

__all__ = ["deeper_checkpoint", "melody_checkpoint", "stereo_checkpoint", "text_checkpoint"]


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Staged models and remembered hashes go to a folder of the session's own; compiled kernels are copied, they take
    20 s.
    """
    cache, kernels = tmp_path_factory.mktemp("cache"), cache_folder() / "kernels"
    if kernels.is_dir():
        shutil.copytree(kernels, cache / "kernels")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MUSICGEN_CACHE", str(cache))
        yield
