"""Turns errors of botocore and s3fs into one line that a user can act on.

It quotes nothing of a request's headers or keys.
"""

import errno
import os
from urllib.parse import urlsplit

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
    ReadTimeoutError,
)
from fsspec.exceptions import FSTimeoutError

from musicgen.errors import StoreError, first_line
from musicgen.storage.location import Location

STORE_ERRORS = (OSError, BotoCoreError, ClientError, FSTimeoutError, ValueError)
"""The errors by which the file systems report a fault of the store; others are errors of this program."""

_DENIED_REASONS = {
    "InvalidAccessKeyId": "the access key is not known to the store",
    "SignatureDoesNotMatch": "the secret key is wrong",
    "ExpiredToken": "the session token has expired",
    "InvalidToken": "the session token is not valid",
    "AccessDenied": "access is denied to these credentials",
    "RequestTimeTooSkewed": "this machine's clock is wrong",
}


def is_already_exists(error: BaseException) -> bool:
    """Whether a conditional put failed because the object exists: 412, in any of the shapes s3fs gives it."""
    if isinstance(error, FileExistsError) or _http_status(error) == 412:
        return True
    return isinstance(error, OSError) and error.errno == errno.EINVAL and "pre-condition" in str(error).lower()


def is_write_conflict(error: BaseException) -> bool:
    """Whether another conditional put of the same object was under way: 409, try again."""
    return _http_status(error) == 409 or (isinstance(error, OSError) and error.errno == errno.EBUSY)


def translate_error(error: BaseException, location: Location, path: str | None = None) -> Exception:
    """Return the exception to raise instead: `FileNotFoundError` for an absent object, else a `StoreError`."""
    uri = location.uri if path is None else f"{location.uri}/{path}"
    code = _error_code(error)
    if code == "NoSuchBucket" or str(error) == "The specified bucket does not exist":
        return StoreError(f"{location.uri}: there is no bucket {location.bucket!r}; create it, or correct the name")
    if isinstance(error, FileNotFoundError | IsADirectoryError):
        return FileNotFoundError(uri)
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return StoreError(
            f"{location.uri}: no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or log in with the "
            "AWS tools"
        )
    if isinstance(error, PermissionError) or code in _DENIED_REASONS:
        reason = _DENIED_REASONS.get(code or "", "access is denied (wrong credentials, or no right to this bucket)")
        return StoreError(f"{uri}: {reason}; check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the bucket's policy")
    if isinstance(error, EndpointConnectionError | ConnectTimeoutError):
        return StoreError(f"{location.uri}: cannot reach {_endpoint()}; check AWS_ENDPOINT_URL and the network")
    if isinstance(error, ReadTimeoutError | FSTimeoutError | TimeoutError):
        return StoreError(f"{uri}: no answer from {_endpoint()} in time; check the network, then run again")
    if isinstance(error, HTTPClientError):
        return StoreError(
            f"{uri}: the connection to {_endpoint()} failed ({type(error).__name__}); check the network, then run again"
        )
    if isinstance(error, ValueError):
        return StoreError(f"{uri}: {first_line(error)}; look at AWS_ENDPOINT_URL and the URI")
    return StoreError(
        f"{uri}: the store answered {code or type(error).__name__} ({first_line(error)}); try again, or ask its "
        "operator"
    )


def _client_error(error: BaseException) -> ClientError | None:
    """Return botocore's own error, which s3fs keeps as the cause of its translation."""
    for candidate in (error, error.__cause__):
        if isinstance(candidate, ClientError):
            return candidate
    return None


def _error_code(error: BaseException) -> str | None:
    client_error = _client_error(error)
    return None if client_error is None else client_error.response.get("Error", {}).get("Code")


def _http_status(error: BaseException) -> int | None:
    client_error = _client_error(error)
    return None if client_error is None else client_error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")


def _endpoint() -> str:
    """Return the endpoint's scheme, host and port, without user or password."""
    url = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if not url:
        return "S3"
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" if parts.netloc else "the endpoint"
