"""The errors of this project; the class decides what follows.

A `UserError` stops a job before work starts (exit code 2). A `RowError` becomes a row of `failures/`, and the other
rows go on. Every message says what was wrong, where (file, row, key) and what to do.
"""

import re
from typing import Literal

ErrorClass = Literal["invalid", "melody", "generation", "crash", "storage"]

_USER_INFO = re.compile(r"(?<=://)[^/?#\s'\"]*@")


class MusicGenError(Exception):
    """Anything this project raises on purpose."""


class UserError(MusicGenError):
    """The job, the manifest, the model or the store is wrong; nothing was started."""


class JobError(UserError):
    """The job file or a command-line setting is wrong."""


class DatasetBusy(JobError):
    """Another run is at work on the dataset; the same job may start when that has ended."""


class ClusterUnavailable(JobError):
    """The Ray cluster does not start or cannot be joined, now or as the job names it."""


class ManifestError(UserError):
    """The manifest cannot be read, lacks a column or is empty."""


class ModelError(UserError):
    """The checkpoint is unknown, incomplete, of an unsupported kind or not the one planned."""


class LimitReached(MusicGenError):
    """A limit that the user has set, or a pause, stops the run; what is committed stays, and it can go on (exit 5)."""


class StoreError(MusicGenError):
    """The object store or folder cannot be used: missing bucket, wrong credentials, no put-if-absent, or a fault of the
    store.

    While a job is planned it is raised as a `JobError` (flows/stages.py); later it is no mistake of the user's.
    """


class StoreUnavailable(StoreError):
    """The store does not answer, or says "later" (time-out, reset, 5xx, throttling): the same call may succeed soon."""


class StoreFull(StoreError):
    """The store or disk has no room left (ENOSPC, EDQUOT, a quota of the bucket)."""


class StoreDenied(StoreError):
    """The store refuses these credentials (401, 403)."""


class RowError(MusicGenError):
    """One row cannot be made; the others go on.

    `error_class` is the column of the same name in `failures/`.
    """

    def __init__(self, error_class: ErrorClass, message: str):
        super().__init__(message)
        self.error_class: ErrorClass = error_class

    def __reduce__(self) -> tuple[type["RowError"], tuple[ErrorClass, str]]:
        # Exceptions with other arguments than their message do not unpickle by default, and Ray pickles them.
        return type(self), (self.error_class, str(self))


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, at most 300 characters, or its type's name if it has none.

    For messages that quote an error of another library, which may name a proxy or an endpoint with its password.
    """
    text = str(error).strip() or type(error).__name__
    return redact_urls(text.splitlines()[0])[:300]


def redact_urls(text: str) -> str:
    """Return `text` with `***@` where a URL has `user:password@`."""
    return _USER_INFO.sub("***@", text)
