"""Starts and joins Ray within a time limit, and says in one line why it cannot be had."""

import json
import logging
import os
import secrets
import signal
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, cast

from actors.environment import find_package_folders
from musicgen.errors import ClusterUnavailable, first_line, redact_urls

if TYPE_CHECKING:
    from ray.job_config import JobConfig

_OBJECT_STORE_BYTES = 100 << 20  # only small messages go through Ray's object store
_LIMIT_S = 180.0  # Ray gives each of its parts half a minute
_STOP_LIMIT_S = 15.0
_ATTEMPTS = 4  # to start a local Ray
_FOLDER_LENGTH = 38  # bytes; below it come up to 69 of Ray's, and a socket's path may have 107


class _NoFolders(list[str]):
    """In the place of the list to which Ray adds the driver's working folder, and which its workers search first.

    A user's own `actors` or `flows` in that folder would be taken for ours.
    """

    def extend(self, folders: Iterable[str]) -> None:
        """Leave the folders out."""


def _configure_job() -> "JobConfig":
    from ray.job_config import JobConfig

    config = JobConfig()
    config._py_driver_sys_path = _NoFolders()
    return config


def start_local_ray(cpus: int, verbose: bool) -> None:
    """Start Ray in this process for as long as it lives. Raises `ClusterUnavailable` if it does not start.

    On a busy machine the raylet gives up when its agent, a Python process, takes more than 15 s to start; so it is
    tried a few times.
    """
    import ray

    if "RAY_AUTH_TOKEN_PATH" not in os.environ:  # else Ray would write one into the home folder, if there is one
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))

    def start() -> None:
        ray.init(
            address="local",
            num_cpus=cpus,
            job_config=_configure_job(),
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE_BYTES,
            _temp_dir=_find_short_folder(),
            _node_ip_address="127.0.0.1",
            logging_level=_log_level(verbose),
            log_to_driver=verbose,
        )

    for attempts_left in reversed(range(_ATTEMPTS)):
        try:
            _call_within_limit(start)
            return
        except Exception as error:  # of Ray: a daemon that does not register within half a minute is an `Exception`
            stop_ray()
            if attempts_left and not isinstance(error, TimeoutError):
                continue
            raise ClusterUnavailable(
                f"Ray cannot be started: {first_line(error)}; its logs are in /tmp/ray/session_latest/logs (or below "
                "RAY_TMPDIR or TMPDIR, which have to be short). On a machine that is very busy try again later"
            ) from None


def _find_short_folder() -> str | None:
    """Return where Ray puts its sockets if TMPDIR is too long for them; None: where it likes."""
    too_long = len(os.fsencode(os.environ.get("TMPDIR", ""))) > _FOLDER_LENGTH
    return "/tmp/ray" if too_long and "RAY_TMPDIR" not in os.environ else None


def connect_to_ray(address: str, forwarded_env: Sequence[str], verbose: bool, brings_code: bool) -> None:
    """Join the cluster at `address`, and send it the code if asked. Raises `ClusterUnavailable`."""
    import ray

    environment: dict[str, object] | None = None
    if brings_code:
        submitted = _read_submitted_environment()
        variables = _select_variables(forwarded_env)
        environment = {
            "py_modules": [str(folder) for folder in find_package_folders()],
            "env_vars": {name: value for name, value in variables.items() if name not in submitted.get("env_vars", {})},
        }
        if "py_modules" in submitted:  # they bring the code, or the cluster's image has it
            del environment["py_modules"]

    def connect() -> None:
        ray.init(
            address=address,
            # Ray's client would send the object to the head, which need not have our code; it adds no working folder.
            job_config=None if address.startswith("ray://") else _configure_job(),
            runtime_env=environment,
            logging_level=_log_level(verbose),
            log_to_driver=verbose,
        )

    try:
        _call_within_limit(connect)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise ClusterUnavailable(
            f"the Ray cluster at {address} cannot be joined: {first_line(error)}; check cluster.address and "
            "RAY_ADDRESS, and if it demands a token set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
        ) from None


def _select_variables(names: Sequence[str]) -> dict[str, str]:
    """Return those of the variables that are set, but for a URL with a password: Ray shows and keeps what it gets."""
    withheld = list_withheld(names)
    return {name: os.environ[name] for name in names if name in os.environ and name not in withheld}


def list_withheld(names: Sequence[str]) -> list[str]:
    """List those of the variables that hold a URL with user or password, and were not sent by `ray job submit`."""
    submitted = _read_submitted_environment().get("env_vars", {})
    values = {name: os.environ.get(name, "") for name in names if name not in submitted}
    return [name for name, value in values.items() if redact_urls(value) != value]


def _read_submitted_environment() -> Mapping[str, Collection[str]]:
    """Return the runtime environment of the `ray job submit` by which this process runs; empty if by none.

    Ray refuses a driver that sets again what the job has set.
    """
    config = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}")
    return cast(Mapping[str, Collection[str]], config.get("runtime_env") or {})


def stop_ray() -> None:
    """Leave the cluster; a local one ends. One that does not answer is not waited for."""
    import ray

    stopping = threading.Thread(target=ray.shutdown, name="stop Ray", daemon=True)
    stopping.start()
    stopping.join(_STOP_LIMIT_S)


def _call_within_limit(call: Callable[[], None]) -> None:
    """Call it in another thread, where Ray leaves the handler of SIGTERM alone. Raises `TimeoutError` at the limit.

    `ray.init` waits for ever if all workers end before they have registered. The thread lives as long as the process:
    the kernel ends Ray's daemons with the thread that has started them.
    """
    failures: list[BaseException] = []
    done, never = threading.Event(), threading.Event()

    def run() -> None:
        try:
            call()
        except BaseException as error:  # it is raised by the caller
            failures.append(error)
        done.set()
        if not failures:
            never.wait()

    threading.Thread(target=run, name="start Ray", daemon=True).start()
    if not done.wait(_LIMIT_S):
        raise TimeoutError(f"Ray did not answer within {_LIMIT_S:.0f} s")
    if failures:
        raise failures[0]
    if threading.current_thread() is threading.main_thread():
        # Ray's native handler, which stands in the place of Python's when another thread has started Ray, aborts the
        # process.
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))


def _log_level(verbose: bool) -> int:
    return logging.INFO if verbose else logging.CRITICAL
