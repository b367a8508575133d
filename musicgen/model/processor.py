"""The processor of this machine, as Linux describes it, and how much of it this process may use."""

import os
from collections.abc import Iterator
from functools import lru_cache
from math import ceil
from pathlib import Path


@lru_cache(maxsize=1)
def _read_cpu_info() -> dict[str, str]:
    """The fields of the first processor in /proc/cpuinfo; empty on other systems than Linux."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    lines = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in lines}


def processor_name() -> str | None:
    """The processor's model name, or None where the system does not say."""
    return _read_cpu_info().get("model name") or None


def processor_flags() -> frozenset[str]:
    """The processor's instruction set extensions as Linux names them, such as "avx2"; empty where the system does not
    say.
    """
    fields = _read_cpu_info()
    return frozenset((fields.get("flags") or fields.get("Features") or "").split())


def usable_cpus(root: Path = Path("/")) -> int:
    """Return how many CPUs this process may keep busy: its affinity, and the quotas of its control groups.

    A container that is given 2 of 64 CPUs sees all 64, and threads beyond its quota only stop each other. `root` is for
    tests.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([affinity, *(ceil(quota) for quota in _read_quotas(root))]))


def _read_quotas(root: Path) -> Iterator[float]:
    """The CPUs that each control group above this process allows: version 2 (cpu.max), or 1 (cfs quota and period)."""
    try:
        groups = (root / "proc/self/cgroup").read_text(encoding="ascii").splitlines()
    except OSError:
        return
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        folder = mount / path.lstrip("/")
        while True:  # a group's own limit, and those of the groups around it
            quota = _read_quota(folder)
            if quota is not None:
                yield quota
            if folder == mount or mount not in folder.parents:
                break
            folder = folder.parent


def _read_quota(folder: Path) -> float | None:
    """Quota over period of one control group; None if it has no limit, or cannot be read."""
    try:
        if (file := folder / "cpu.max").is_file():
            quota, period = file.read_text(encoding="ascii").split()
        else:
            quota, period = (
                (folder / f"cpu.cfs_{name}_us").read_text(encoding="ascii") for name in ("quota", "period")
            )
        return float(quota) / float(period) if float(quota) > 0 else None
    except (OSError, ValueError):  # "max" is no number
        return None
