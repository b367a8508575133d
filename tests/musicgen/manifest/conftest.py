"""A model's shape without a model."""

import pytest

from musicgen.model.spec import ModelSpec
from tests.fixtures.planning import SMALL


@pytest.fixture(scope="session")
def spec() -> ModelSpec:
    return SMALL
