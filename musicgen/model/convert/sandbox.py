"""Runs the child of a conversion: a subprocess without network and without this process's credentials."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from musicgen.errors import ModelError
from musicgen.value_types import JsonObject

OnBytes = Callable[[int, int], None]  # bytes written, bytes in all

_CHILD = "musicgen.model.convert.child"
# What Python, torch and its libraries need. Credentials (AWS, the hub, a proxy's) stay outside.
_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TMPDIR", "SYSTEMROOT", "VIRTUAL_ENV")


def run_child(
    source: Path,
    format_name: str,
    output: Path | None = None,
    folders: Mapping[str, Path] | None = None,
    on_bytes: OnBytes = lambda done, total: None,
) -> JsonObject:
    """Let the child convert `source` into the folder `output`, or (None) say what it needs; returns its last answer.

    Raises `ModelError` for what the child finds wrong, and if it dies.
    """
    request = {
        "source": str(source),
        "format": format_name,
        "output": None if output is None else str(output),
        "folders": {name: str(path) for name, path in (folders or {}).items()},
    }
    env = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    env |= {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "OMP_NUM_THREADS": "1"}
    answer: JsonObject = {}
    with tempfile.TemporaryFile("w+") as errors:
        command = [sys.executable, "-P", "-m", _CHILD, json.dumps(request)]
        child = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=errors, text=True)
        assert child.stdout is not None
        try:
            for line in child.stdout:
                answer = json.loads(line)
                if "total" in answer:
                    on_bytes(answer["done"], answer["total"])
            status = child.wait()
        finally:
            child.kill()
            child.stdout.close()
        if status or not answer or "total" in answer:
            errors.seek(0)
            last = (errors.read().strip().splitlines() or ["no message"])[-1]
            raise ModelError(f"{source}: the subprocess that opens it ended with status {status}: {last[:300]}")
    if "error" in answer:
        raise ModelError(f"{source}: {answer['error']}")
    return answer
