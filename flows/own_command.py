"""How this program and its Python are called where they run, for lines that are meant to be copied."""

import shlex
import shutil
import sys
from pathlib import Path


def own_command(*arguments: str) -> str:
    """Return a command line of `musicgen` with these arguments, quoted for a shell, which works in this folder.

    It begins with `musicgen` if that is found on PATH and is this program, else with the path that it was called by
    (`.venv/bin/musicgen`), else with this Python.
    """
    return shlex.join([*_find_program(), *arguments])


def own_python(code: str) -> str:
    """Return a command line that runs `code` in the Python of this program."""
    return shlex.join([_find_python(), "-c", code])


def _find_program() -> list[str]:
    called = Path(sys.argv[0]) if sys.argv and sys.argv[0] else Path()
    beside = Path(sys.executable).with_name("musicgen")  # of `python -m musicgen`, a deployment, a notebook
    program = called if called.name == "musicgen" and called.is_file() else beside
    if _is_on_path("musicgen", program):
        return ["musicgen"]
    if program.is_file():
        return [str(program)]
    return [_find_python(), "-m", "musicgen"]


def _find_python() -> str:
    return "python" if _is_on_path("python", Path(sys.executable)) else sys.executable


def _is_on_path(name: str, program: Path) -> bool:
    """Whether a shell that is given the name runs the program, in the same environment of Python."""
    path = shutil.which(name)
    return path is not None and Path(path).absolute() == program.absolute()
