"""A store whose certificate is signed by a private authority, which the environment names."""

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from musicgen.errors import StoreError
from musicgen.storage import open_store
from tests.fixtures.private_authority import write_certificate


@pytest.fixture
def tls_endpoint(s3: Any, tmp_path: Path) -> Iterator[str]:
    """The S3 server behind TLS, as a proxy ends it."""
    write_certificate(tmp_path / "authority.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "authority.pem")
    store = urlsplit(s3.endpoint)

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        store_reader, store_writer = await asyncio.open_connection(store.hostname, store.port)
        with contextlib.suppress(OSError):
            await asyncio.gather(copy(reader, store_writer), copy(store_reader, writer))

    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(forward, "127.0.0.1", 0, ssl=context))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)


@pytest.mark.parametrize("variable", ["AWS_CA_BUNDLE", "SSL_CERT_FILE"])
def test_a_private_authority_is_trusted_where_the_environment_names_it(
    s3: Any, tls_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", tls_endpoint)
    monkeypatch.setenv("MUSICGEN_STORE_TIMEOUT_S", "2")
    for name in ("AWS_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(StoreError, match=r"certificate of https://.* is not trusted; .* set AWS_CA_BUNDLE"):
        open_store(s3.uri).read("a")
    monkeypatch.setenv(variable, str(tmp_path / "authority.pem"))
    store = open_store(s3.uri)
    store.write("a", b"music")
    assert store.read("a") == b"music"
