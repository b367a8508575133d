"""Takes the network away from this process, before it opens a file that it does not trust."""

import ctypes
import os
import sys
from collections.abc import Callable
from typing import Literal

Isolation = Literal["its own network namespace", "sockets disabled"]

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000  # linux/sched.h
# What Python code would have to do to reach the network, or to start a process that has one.
_FORBIDDEN = ("socket.", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "pty.")


def leave_network(try_namespace: bool = True) -> Callable[[], Isolation]:
    """Move this process into a network namespace of its own, where Linux lets it; call it before torch is imported.

    A process of several threads cannot leave its user namespace. Returns a function to call after the imports: where
    there is no namespace it forbids sockets and processes for good, and it says which of the two holds.
    """
    if try_namespace and _unshare_network():
        return lambda: "its own network namespace"
    return _disable_sockets


def _unshare_network() -> bool:
    """Whether the process has left its network: alone as root, else together with its user namespace."""
    if sys.platform != "linux":
        return False
    unshare = ctypes.CDLL(None, use_errno=True).unshare
    return any(unshare(flags) == 0 for flags in (_CLONE_NEWNET, _CLONE_NEWUSER | _CLONE_NEWNET))


def _disable_sockets() -> Isolation:
    """Forbid sockets and processes by an audit hook, which cannot be taken away from Python code."""

    def forbid(event: str, arguments: tuple[object, ...]) -> None:
        if event.startswith(_FORBIDDEN):
            raise PermissionError(f"{event} is forbidden while pickles are opened (process {os.getpid()})")

    sys.addaudithook(forbid)
    return "sockets disabled"
