"""Silences libraries. It has to be called before they are imported, because most read the environment then."""

import logging
import os
import warnings

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
