"""A tmpfs that is too small, and that can grow."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

_SMALL, _LARGE = "size=250k", "size=64m"
_MARK = "CHAOS_NAMESPACE"


def enter_namespace() -> None:
    """Start this process anew in a mount namespace of its own, so that no disk outlives it; as root only."""
    if os.geteuid() == 0 and (unshare := shutil.which("unshare")) and _MARK not in os.environ:
        if subprocess.run([unshare, "--mount", "true"], capture_output=True, check=False).returncode:
            return  # a container may forbid it: then small disks are skipped
        command = [unshare, "--mount", sys.executable, "-m", "tests.faults", *sys.argv[1:]]
        os.execve(unshare, command, {**os.environ, _MARK: "1"})


class SmallDisk:
    """Mounted at `folder` until it is closed."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", _SMALL, "tmpfs", str(folder)], check=True)

    @staticmethod
    def reason_to_skip() -> str:
        """Why this machine cannot have one; empty if it can."""
        if os.geteuid() != 0:
            return "mounting a tmpfs needs root"
        return "" if _MARK in os.environ and shutil.which("mount") else "mount namespaces are not to be had here"

    def grow(self) -> None:
        """Make room."""
        subprocess.run(["mount", "-o", f"remount,{_LARGE}", str(self.folder)], check=True)

    def close(self) -> None:
        """Unmount it."""
        subprocess.run(["umount", "-l", str(self.folder)], check=False)
