"""Turns errors of botocore and aiohttp into those of `musicgen.errors`: one line that a user can act on.

It quotes nothing of a request's headers or keys.
"""

import os
from urllib.parse import urlsplit

import aiohttp
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ReadTimeoutError,
    SSLError,
    SSOError,
    TokenRetrievalError,
)
from botocore.parsers import ResponseParserError

from musicgen.errors import StoreDenied, StoreError, StoreFull, StoreUnavailable, first_line
from musicgen.storage.location import Location

LIBRARY_ERRORS = (BotoCoreError, ClientError, ResponseParserError, aiohttp.ClientError, OSError, ValueError)
"""The errors by which the libraries report a fault of the store (time-outs are OSErrors); others are bugs of ours."""

_CONNECTION_ERRORS = (
    ConnectionError,  # botocore's: cannot connect, TLS, proxy
    HTTPClientError,
    IncompleteReadError,
    ResponseParserError,  # half an answer, or the page of a gateway
    aiohttp.ClientError,
    OSError,
)
_NO_CREDENTIALS = (
    NoCredentialsError,
    PartialCredentialsError,
    CredentialRetrievalError,
    TokenRetrievalError,
    SSOError,
)

# Codes that say what their HTTP status does not, in lower case. Statuses: 403 is denied, 429 and 5xx pass.
_DENIED_REASONS = {
    "invalidaccesskeyid": "the access key is not known to the store",
    "signaturedoesnotmatch": "the secret key is wrong",
    "expiredtoken": "the session token has expired",
    "tokenrefreshrequired": "the session token has expired",
    "invalidtoken": "the session token is not valid",
    "accessdenied": "access is denied to these credentials",
    "requesttimetooskewed": "this machine's clock is wrong",
}
_PASSING_CODES = frozenset(
    {
        "slowdown",
        "requesttimeout",
        "requestlimitexceeded",
        "internalerror",
        "serviceunavailable",
        "operationaborted",
        "baddigest",  # damaged on the way, as the following
        "incompletebody",
        "xamzcontentsha256mismatch",
        "xamzcontentchecksummismatch",
    }
)
_LASTING_STATUSES = frozenset({501, 505})  # not implemented; this version of HTTP neither


class PreconditionFailed(StoreError):
    """A conditional request was refused: there is an object, or it is another one than was asked for."""


class EmptyRange(StoreError):
    """The range that was asked for lies behind the object's end."""


class UploadGone(StoreUnavailable):
    """A multipart upload that was begun does not exist: it was completed, and the reply was lost, or aborted."""


def is_passing(fault: Exception) -> bool:
    """Return whether the same request may succeed soon."""
    return isinstance(fault, StoreUnavailable) and not isinstance(fault, UploadGone)


def translate_error(error: BaseException, location: Location, path: str | None = None) -> Exception:
    """Return the exception to raise instead: `FileNotFoundError` for an absent object, else a `StoreError`."""
    uri = location.uri if path is None else f"{location.uri}/{path}"
    if isinstance(error, ClientError):
        return _translate_answer(error, location, uri)
    if isinstance(error, _NO_CREDENTIALS):
        return StoreDenied(
            f"{location.uri}: no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or log in with the "
            "AWS tools"
        )
    if isinstance(error, SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error):  # which does not pass
        return StoreError(
            f"{location.uri}: the certificate of {_endpoint()} is not trusted; if a private authority has signed it, "
            "set AWS_CA_BUNDLE to the file of its certificate"
        )
    if isinstance(error, EndpointConnectionError | ConnectTimeoutError):
        return StoreUnavailable(f"{location.uri}: cannot reach {_endpoint()}; check AWS_ENDPOINT_URL and the network")
    if isinstance(error, ReadTimeoutError | TimeoutError):
        return StoreUnavailable(f"{uri}: no answer from {_endpoint()} in time; check the network, then run again")
    if isinstance(error, _CONNECTION_ERRORS):
        return StoreUnavailable(
            f"{uri}: the connection to {_endpoint()} failed ({type(error).__name__}); check the network, then run again"
        )
    return StoreError(f"{uri}: {first_line(error)}; look at AWS_ENDPOINT_URL and the URI")


def _translate_answer(error: ClientError, location: Location, uri: str) -> Exception:
    """Translate an answer of the store by its code and HTTP status."""
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    word = code.lower()
    if code == "NoSuchBucket":
        return StoreError(f"{location.uri}: there is no bucket {location.bucket!r}; create it, or correct the name")
    if code == "NoSuchUpload":
        return UploadGone(f"{uri}: the store knows nothing of an upload that was begun; run again")
    if status == 404:
        return FileNotFoundError(uri)
    if status == 412:
        return PreconditionFailed(f"{uri}: has changed meanwhile; run again")
    if status == 416:
        return EmptyRange(f"{uri}: is shorter than expected; run again")
    if status == 507 or "quota" in word or "storagefull" in word or "insufficientstorage" in word:
        return StoreFull(f"{uri}: the store has no room left ({code}); make room, or choose another output")
    if status in (401, 403) or word in _DENIED_REASONS:
        reason = _DENIED_REASONS.get(word, "access is denied (wrong credentials, or no right to this bucket)")
        return StoreDenied(f"{uri}: {reason}; check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the bucket's policy")
    if code == "400" and status == 400:  # to a HEAD request, whose answer has no body to give the reason
        return StoreDenied(f"{uri}: the store refuses the request (400); the session token may have expired: renew it")
    reason = " ".join(str(error.response.get("Error", {}).get("Message", "")).split())[:200]
    message = f"{uri}: the store answered {code or status} ({reason or status}); try again, or ask its operator"
    is_server_fault = status >= 500 and status not in _LASTING_STATUSES
    if is_server_fault or status in (408, 409, 429) or word in _PASSING_CODES or "throttl" in word:
        return StoreUnavailable(message)
    return StoreError(message)


def _endpoint() -> str:
    """Return the endpoint's scheme, host and port, without user or password."""
    url = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if not url:
        return "S3"
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" if parts.netloc else "the endpoint"
