"""GPUs that Ray only believes in: what is dispatched to them, and what an actor says that does not find its own."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import ray
import ray.cluster_utils
import torch

from actors.cluster import Cluster, join_cluster
from actors.generator import load_engine
from musicgen.cluster_settings import ClusterSettings
from musicgen.errors import ModelError
from musicgen.plan.expected_actors import ExpectedActors

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(280, func_only=True),
    pytest.mark.skipif(torch.cuda.is_available(), reason="the GPU is real here"),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A node with three GPUs: slices of cards in MIG mode, whose names are no numbers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))  # workers import the engine of these tests
        patch.setenv("CUDA_VISIBLE_DEVICES", "MIG-41b36b1c-0000,MIG-41b36b1c-0001,MIG-41b36b1c-0002")
        head = {"num_cpus": 12, "num_gpus": 3, "include_dashboard": False, "object_store_memory": 100 << 20}
        node = ray.cluster_utils.Cluster(initialize_head=True, head_node_args=head)
        with join_cluster(ClusterSettings(address=node.address), brings_code=False) as cluster:
            yield cluster
        node.shutdown()


def load_on_cpu(config):
    """The real engine, on the CPU of an actor that has a GPU."""
    return load_engine(replace(config, device="cpu"))


def test_there_is_an_actor_for_each_gpu_and_rows_for_all_of_their_slots(cluster, planned):
    assert (cluster.gpus, cluster.gpus_per_actor, cluster.cpus_per_actor) == (3.0, 1.0, 4.0)
    assert cluster.expect_actors(ClusterSettings()) == ExpectedActors(3, 3, 1.0)
    run = planned([f"tune {i}" for i in range(120)], shard_rows=2, slots=4)
    held: list[list[int]] = []

    def watch(pool, progress) -> None:
        actors = [state for state in pool._loop._dispatcher.actors.values() if state.ready]
        if len(actors) == 3 and len(pool._loop._dispatcher.queue):
            held.append([2 * len(state.attempts) for state in actors])

    result = run.run(load_on_cpu, watch=watch)
    assert (result.progress.made, result.progress.failed, len(result.loaded_actors)) == (120, 0, 3)
    assert held
    assert max(map(max, held)) >= 8


def test_an_actor_whose_torch_does_not_see_its_gpu_ends_the_run_with_the_install_line(planned):
    with pytest.raises(ModelError, match=r"was given a GPU, but torch .* is a build without CUDA; .*--index-url"):
        planned(["tune"]).run()
