"""Names a process, so that another one of the same machine can tell whether it still runs."""

import hashlib
import os
from pathlib import Path


def name_this_process() -> str:
    """Return the name of this process; empty where a machine cannot be told from another."""
    machine, began = _name_machine(), _read_start(os.getpid())
    return f"{machine}/{os.getpid()}/{began}" if machine and began else ""


def has_ended(name: str) -> bool:
    """Return whether a process of this machine has ended; False for one of another machine."""
    machine, _, rest = name.partition("/")
    pid, _, began = rest.partition("/")
    if not machine or machine != _name_machine() or not pid.isdigit():
        return False
    began_now = _read_start(int(pid))
    if began_now is not None:
        return began_now != began
    try:  # a /proc that hides the processes of other users
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    return False


def _read_start(pid: int) -> str | None:
    """When a process began, in the kernel's ticks, which no clock moves; empty if it has ended, None if not known."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return "" if fields[0] in "ZX" else fields[19]


def _name_machine() -> str:
    """A hash of what tells this boot, and this container's process numbers, from all others; empty if not known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        return hashlib.sha256(f"{boot} {os.readlink('/proc/self/ns/pid')}".encode()).hexdigest()[:16]
    except OSError:
        return ""
