"""Turns errors of the operating system about files into those of `musicgen.errors`, in one line."""

import errno
import os

from musicgen.errors import StoreDenied, StoreError, StoreFull, StoreUnavailable

NO_SYNC_ERRORS = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
"""What file systems answer that cannot sync a folder."""

NO_LINK_ERRORS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
"""What file systems answer that have no hard links."""

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_IN_THE_WAY = frozenset({errno.EEXIST, errno.ENOTDIR, errno.EISDIR})
# A disk that fails to read now and then, a file server that restarts, a process at its limit of open files.
_PASSING = frozenset(
    {
        errno.EIO,
        errno.EREMOTEIO,
        errno.ESTALE,
        errno.EAGAIN,
        errno.EBUSY,
        errno.EINTR,
        errno.ENOLCK,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.ENOTCONN,  # a FUSE file system whose process has ended
        errno.ETIMEDOUT,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.ECONNABORTED,
    }
)


def translate_error(error: OSError, path: str) -> StoreError:
    """Return the `StoreError` to raise instead of an error about the file at `path`."""
    text = f"{path}: {os.strerror(error.errno) if error.errno else error}"
    if error.errno in _FULL:
        return StoreFull(f"{text}; make room, or choose another folder")
    if error.errno in _DENIED:
        return StoreDenied(f"{text}; give this user the right to it, or choose another folder")
    if error.errno in _PASSING:
        return StoreUnavailable(f"{text}; check the disk or its server, then run again")
    if error.errno in _IN_THE_WAY:
        return StoreError(f"{text}; a file stands where a folder is needed; choose another folder")
    return StoreError(f"{text}; choose another folder")
