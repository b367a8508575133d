"""The Prefect API of a run: a configured one that is wrong, and a temporary one that cannot start."""

import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.prefect_server import TemporaryServer, ask_health, check_prefect_url, last_error_line
from flows.prefect_watch import PrefectWatch
from flows.record_messages import Unreachable
from musicgen.errors import JobError, redact_urls
from tests.fixtures.private_authority import write_certificate


def test_a_server_that_cannot_start_names_the_reason(tmp_path: Path) -> None:
    (tmp_path / "prefect.db").write_bytes(b"\xff" * 8192)
    server = TemporaryServer(str(tmp_path))
    try:
        deadline = time.monotonic() + 120
        while not (reason := server.describe_end()):
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        server.stop()
    assert "DatabaseError" in reason
    assert "not a database" in reason
    assert not tmp_path.exists(), "its home goes with it"


def test_the_last_exception_of_a_log_is_the_reason() -> None:
    log = "Traceback:\n  x = 1\nsqlite3.Error: first\nalembic.CommandError: no revision\nExiting.\n"
    assert last_error_line(log) == "alembic.CommandError: no revision"
    assert last_error_line("some words\nand more\n\n") == "and more"
    assert last_error_line("") == ""


def test_a_password_in_the_address_is_refused_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://me:PASSWORD@127.0.0.1:9/api")
    with pytest.raises(JobError, match="PREFECT_API_AUTH_STRING=user:password") as caught:
        check_prefect_url()
    assert "PASSWORD" not in str(caught.value)
    assert "127.0.0.1:9" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at http://u:p@host:1/api it", "at http://***@host:1/api it"),
        ("redis://:secret@h, ray://u@h", "redis://***@h, ray://***@h"),
        ("s3://bucket/a@b and x@y.z", "s3://bucket/a@b and x@y.z"),
        ("http://u:p@w@host/", "http://***@host/"),
        ("http://host/?mail=a@b", "http://host/?mail=a@b"),
    ],
)
def test_what_stands_before_the_host_of_a_url_is_hidden(text: str, shown: str) -> None:
    assert redact_urls(text) == shown


def test_an_address_of_nothing_does_not_answer() -> None:
    assert "refused" in (ask_health("http://127.0.0.1:9/api", 2) or "")
    assert ask_health("nonsense", 2)


def test_a_certificate_of_a_private_authority_is_left_to_prefect(tmp_path: Path) -> None:
    """Prefect has settings of its own for it, in a profile too. Something answers, and a refusal names the setting."""
    write_certificate(tmp_path / "authority.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "authority.pem")
    said: list[Unreachable] = []
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"https://127.0.0.1:{server.server_port}/api"
        assert ask_health(url, 5) is None
        with pytest.raises(RuntimeError) as caught, temporary_settings({PREFECT_API_URL: url}):
            get_client(sync_client=True).raise_for_api_version_mismatch()
        PrefectWatch(url, said.append, lambda: "").report_error(caught.value)  # type: ignore[arg-type]
        server.shutdown()
    assert "certificate is not trusted; set PREFECT_API_SSL_CERT_FILE" in said[0].text
