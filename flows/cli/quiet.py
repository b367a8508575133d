"""Silences libraries. It has to be called before they are imported, because most read the environment then."""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_ALWAYS = {
    "DO_NOT_TRACK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "TOKENIZERS_PARALLELISM": "false",
}
_WHEN_QUIET = {
    "PYTHONWARNINGS": "ignore",  # reaches the processes we start
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_TO_API_ENABLED": "false",
    "PREFECT_CLI_PROMPT": "false",
    "GLOG_minloglevel": "3",
    "GRPC_VERBOSITY": "NONE",
}


def quiet_libraries(verbose: bool = False) -> None:
    """Set the environment and logging for a command. What the user has set stays."""
    for name, value in (_ALWAYS if verbose else _ALWAYS | _WHEN_QUIET).items():
        os.environ.setdefault(name, value)
    if not verbose:
        warnings.simplefilter("ignore")
        logging.disable(logging.ERROR)
    else:
        logging.basicConfig(level=logging.INFO)


@contextmanager
def hide_native_output(verbose: bool = False) -> Iterator[None]:
    """Keep what native code writes to descriptor 2 off the terminal, unless the command is verbose.

    Ray's C++ code writes there for 20 s when a cluster refuses a token, whatever its log level is. Python's own stderr
    goes on to the terminal; processes that are started within the block write nothing there.
    """
    try:
        is_descriptor_2 = sys.stderr.fileno() == 2
    except (OSError, ValueError, AttributeError):  # a stderr that a test or a notebook has put there
        is_descriptor_2 = False
    if verbose or not is_descriptor_2:
        yield
        return
    terminal, python_stderr = os.dup(2), sys.stderr
    python_stderr.flush()
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    ours = os.fdopen(terminal, "w", encoding=python_stderr.encoding, errors="backslashreplace", buffering=1)
    put_json_over = getattr(python_stderr, "over", None)  # of `--log-json` (flows/cli/json_log.py)
    sys.stderr = ours if put_json_over is None else put_json_over(ours)
    try:
        yield
    finally:
        sys.stderr = python_stderr  # first, because another thread may be printing
        ours.flush()
        os.dup2(terminal, 2)
        ours.close()
