"""The processor of this machine, as Linux describes it."""

from functools import lru_cache
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
