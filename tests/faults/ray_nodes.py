"""python -m tests.faults.ray_nodes: a Ray cluster of a head without CPUs and two nodes with one CPU each.

It is a process of its own because Ray's C++ ends every process that loses its GCS. It prints one JSON line when it is
up, and one for each line `add` on stdin; at the end of stdin everything is taken down.
"""

import json
import sys
import tempfile

from ray._private import ray_constants
from ray.cluster_utils import Cluster

_OBJECT_STORE_BYTES = 80 << 20


def _add_node(cluster: Cluster, cpus: int, **settings: object) -> dict[str, int]:
    """Add a node and return the pids of its processes."""
    node = cluster.add_node(
        num_cpus=cpus,
        object_store_memory=_OBJECT_STORE_BYTES,
        include_dashboard=False,
        **settings,
    )
    pids = {"raylet": node.all_processes[ray_constants.PROCESS_TYPE_RAYLET][0].process.pid}
    if gcs := node.all_processes.get(ray_constants.PROCESS_TYPE_GCS_SERVER):
        pids["gcs"] = gcs[0].process.pid
    return pids


def main(folder: str) -> None:
    """Serve until stdin ends."""
    cluster = Cluster()
    head = _add_node(cluster, 0, temp_dir=folder)
    nodes = [_add_node(cluster, 1), _add_node(cluster, 1)]
    print(json.dumps({"address": cluster.address, "head": head, "nodes": nodes}), flush=True)
    for line in sys.stdin:
        if line.strip() == "add":
            print(json.dumps(_add_node(cluster, 1)), flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="mgray", dir="/tmp"))
