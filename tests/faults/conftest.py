"""What fault tests share: the proxy before the real S3 server."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.faults.proxy import FaultProxy
from tests.fixtures.checkpoints import *  # noqa: F403


@pytest.fixture(scope="session")
def proxy_server(s3_server) -> Iterator[FaultProxy]:
    """One proxy for all tests of a process, since each endpoint costs a client of its own."""
    with FaultProxy(s3_server.endpoint) as proxy:
        yield proxy


@pytest.fixture
def proxy(proxy_server: FaultProxy, s3, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """A proxy before the S3 server of `s3`, without faults at first; the environment points at it."""
    for name, value in replace(s3, endpoint=proxy_server.endpoint).env.items():
        monkeypatch.setenv(name, value)
    proxy_server.requests.clear()
    proxy_server.hits.clear()
    yield proxy_server
    proxy_server.clear()
