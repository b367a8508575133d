"""The servers that all schedules share, and how they are made whole after each one."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from tests.faults.jobs import write_files
from tests.faults.proxy import FaultProxy
from tests.faults.ray_cluster import RayCluster
from tests.faults.servers import ACCESS_KEY, ROOT, SECRET_KEY, PrefectServer, StoreServer
from tests.faults.terminal import Terminal

_CLIP_S = 0.4
_DRIVER_HOOKS = Path(__file__).with_name("driver_hooks")


class Bench:
    """A store behind a fault proxy, a Prefect server and a Ray cluster of two nodes, in `folder`."""

    def __init__(self, folder: Path, clip_s: float = _CLIP_S, env: Mapping[str, str] | None = None):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.folder = folder
        self._env = dict(env or {})  # of drivers and actors
        self.store = StoreServer(folder / "store")
        self.proxy = FaultProxy(self.store.endpoint)
        self.proxy.__enter__()
        self.requests: list[str] = []
        self.proxy.on_request = self.requests.append
        self.prefect = PrefectServer(folder / "prefect")
        self.ray = RayCluster(folder / "ray", {**self._env, **self.store_env(), "CHAOS_CLIP_S": str(clip_s)})
        try:
            self.prefect.start(wait=False)
            self.store.start()
            write_files(self.store.endpoint)
            self.ray.start()
            self.prefect.start()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Bench":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def store_env(self, through_proxy: bool = True) -> dict[str, str]:
        """What points a process at the store."""
        return {
            "AWS_ENDPOINT_URL_S3": self.proxy.endpoint if through_proxy else self.store.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "HF_HUB_OFFLINE": "1",
        }

    def start_musicgen(self, arguments: list[str], folder: Path, name: str, records: bool = True) -> Terminal:
        """Start a command with all servers at hand. Without `records` it does without Prefect, which saves time."""
        env = {
            **os.environ,
            **self._env,
            **self.store_env(),
            **self.ray.token,
            "RAY_ADDRESS": self.ray.address,
            "PREFECT_API_URL": self.prefect.url,
            "PREFECT_HOME": str(self.folder / "prefect-client"),
            "PYTHONPATH": os.pathsep.join([str(ROOT), *([] if records else [str(_DRIVER_HOOKS)])]),
        }
        return Terminal.start(arguments, env, folder, name)

    def mend(self) -> None:
        """End every fault: servers that died or were stopped run again, and Ray has its two nodes."""
        self.proxy.clear()
        if self.proxy.is_listening is False:
            self.proxy.listen()
        for server in (self.store, self.prefect):
            server.go_on()
            server.start()
        if not self.ray.lives:
            self.ray.close()
            self.ray.start()
        self.ray.restore_nodes()

    def close(self) -> None:
        """End all servers."""
        self.ray.close()
        self.prefect.close()
        self.proxy.__exit__(None, None, None)
        self.store.close()
