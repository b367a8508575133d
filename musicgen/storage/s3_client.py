"""Requests to an S3 endpoint: each with a deadline, and tried again here and nowhere else.

s3fs keeps the session, the credentials and the event loop. Its file operations are not used: they try again on top of
botocore's own tries (one range read of a store that was down took hours), have no deadline, and hide which error they
met. botocore is told not to try again.
"""

import os
import random
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from musicgen.errors import StoreDenied, StoreError, first_line, redact_urls
from musicgen.storage import s3_faults
from musicgen.storage.deadlines import Deadlines
from musicgen.storage.location import Location
from musicgen.storage.s3_api import Request
from musicgen.store_requests import measure_request
from musicgen.store_waits import track_wait

if TYPE_CHECKING:
    from s3fs import S3FileSystem

_T = TypeVar("_T")

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
_CONNECT_TIMEOUT_S = 10
_SET_UP_S = 30.0  # for the first client: credentials are read, and the library's description of S3
_CONNECTIONS = 64


def send_request(
    request: Request[_T], location: Location, path: str | None = None, *, size: int = 0, deadlines: Deadlines
) -> _T:
    """Make a request that carries `size` bytes, and make it again while the store cannot be used and there is time.

    One that is denied may be made again too (`Deadlines.denied_tries`). `location` and `path` are for messages. Raises
    what `s3_faults.translate_error` makes of the library's errors. A request that was tried twice may have been done
    twice: a conditional write can meet the object of its first try.
    """
    pause_s, denials = FIRST_PAUSE_S, 0
    deadline = time.monotonic() + deadlines.limit_total(size)
    with measure_request(), track_wait(time.time()) as set_reason:
        while True:
            file_system = _find_file_system()
            begun_at = time.monotonic()
            try:
                client = _run(file_system, file_system.set_session, _SET_UP_S)
                deadline += time.monotonic() - begun_at  # a busy machine is no store that does not answer
                try_s = min(deadlines.limit_try(size), deadline - time.monotonic())
                return _run(file_system, partial(request, client), max(0.1, try_s))
            except s3_faults.LIBRARY_ERRORS as error:
                fault = s3_faults.translate_error(error, location, path)
                if isinstance(fault, StoreDenied):
                    _forget(file_system)
                    denials += 1
                pause_s = min(LONGEST_PAUSE_S, 2 * pause_s) * random.uniform(0.75, 1.0)
                again = s3_faults.is_passing(fault) or (denials and denials < deadlines.denied_tries)
                if not again or time.monotonic() + pause_s >= deadline:
                    raise fault from error
                set_reason(str(fault))
            time.sleep(pause_s)


@dataclass(frozen=True, slots=True)
class S3Access:
    """Where requests go, and the credentials that they are signed with; None without any."""

    endpoint: str
    region: str | None
    access_key: str | None = None
    secret_key: str | None = None
    session_token: str | None = None


def find_s3_access() -> S3Access:
    """Return what requests are made with, for libraries that have an S3 client of their own.

    Like those, it takes environment, profiles and roles into account. Raises `StoreError` if nothing can be set up.
    """
    file_system = _find_file_system()
    client = _run(file_system, file_system.set_session, _SET_UP_S)
    endpoint, region = str(client.meta.endpoint_url), client.meta.region_name

    async def find_access() -> S3Access:
        credentials = await file_system.session.get_credentials()
        if credentials is None:
            return S3Access(endpoint, region)
        frozen = await credentials.get_frozen_credentials()
        return S3Access(endpoint, region, frozen.access_key, frozen.secret_key, frozen.token)

    return _run(file_system, find_access, _SET_UP_S)


def _run(file_system: "S3FileSystem", call: Callable[[], Awaitable[_T]], timeout_s: float) -> _T:
    from fsspec.asyn import sync

    # aiohttp arms no time-out while it waits for "100 Continue" or for a free connection; this one ends those too.
    result: _T = sync(file_system.loop, call, timeout=timeout_s)
    return result


_file_systems: dict[tuple[object, ...], "S3FileSystem"] = {}
_file_systems_lock = threading.Lock()


def _find_file_system() -> "S3FileSystem":
    """Return s3fs's file system, which all stores and threads share, since to make one takes a third of a second.

    There is one per process, since its event loop does not survive a fork, and per environment.
    """
    environment = tuple(sorted(item for item in os.environ.items() if item[0].startswith(("AWS_", "SSL_"))))
    key = (os.getpid(), environment)
    with _file_systems_lock:
        if key not in _file_systems:
            _file_systems[key] = _make_file_system()
        return _file_systems[key]


def _forget(file_system: "S3FileSystem") -> None:
    """Let the next request read the credentials afresh: they may have been renewed since these were refused."""
    with _file_systems_lock:
        for key in [key for key, known in _file_systems.items() if known is file_system]:
            del _file_systems[key]


def _make_file_system() -> "S3FileSystem":
    import fsspec

    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None
    if endpoint is not None and redact_urls(endpoint) != endpoint:
        raise StoreError(
            "s3:// cannot be set up: AWS_ENDPOINT_URL holds a user name or password, which S3 has no use for; leave it "
            "out, and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")  # botocore knows only the second
    # botocore knows AWS_CA_BUNDLE alone; the other is what most programs take private authorities from.
    authorities = None if "AWS_CA_BUNDLE" in os.environ else os.environ.get("SSL_CERT_FILE")
    client_settings = {"region_name": region, "verify": authorities}
    try:
        return fsspec.filesystem(
            "s3",
            use_listings_cache=False,
            skip_instance_cache=True,
            endpoint_url=endpoint,
            client_kwargs={name: value for name, value in client_settings.items() if value},
            config_kwargs={
                "connect_timeout": _CONNECT_TIMEOUT_S,
                "read_timeout": None,  # the deadline of a try comes first
                "max_pool_connections": _CONNECTIONS,
                "retries": {"mode": "standard", "total_max_attempts": 1},
            },
        )
    except ValueError as error:  # an endpoint that is no URL
        raise StoreError(f"s3:// cannot be set up: {first_line(error)}; look at AWS_ENDPOINT_URL") from None
