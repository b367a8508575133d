"""What an actor gets of a cluster, and how many actors there are by default."""

import os
from dataclasses import replace

import pytest
import torch

from actors import actor_share
from actors.actor_device import name_device, prepare_device
from actors.actor_share import ActorShare, NodeSize, choose_threads, share_nodes
from actors.cluster import expect_local_actors
from musicgen.cluster_settings import ClusterSettings
from musicgen.dataset import paths
from musicgen.errors import JobError, ModelError
from musicgen.job import Job
from musicgen.model.processor import usable_cpus
from musicgen.plan.expected_actors import ExpectedActors, expect_actors_of_job
from tests.actors.in_process import ActorInProcess

HEAD, GPU_NODE = NodeSize(2), NodeSize(64, 8)


@pytest.mark.parametrize(
    ("settings", "device", "nodes", "share"),
    [
        ({}, "auto", [HEAD], ActorShare(2, 0, 1)),
        ({"actors": 3}, "auto", [NodeSize(64)], ActorShare(16, 0, 1)),  # more threads gain little beside others
        ({"actors": 1}, "auto", [NodeSize(64)], ActorShare(64, 0, 1)),
        ({"actors": 4}, "auto", [NodeSize(0), NodeSize(8), NodeSize(8)], ActorShare(4, 0, 1)),
        ({}, "auto", [HEAD, GPU_NODE], ActorShare(4, 1, 8)),
        ({}, "auto", [HEAD, GPU_NODE, NodeSize(16, 2)], ActorShare(4, 1, 10)),
        ({}, "cpu", [GPU_NODE], ActorShare(64, 0, 1)),
        ({}, "cuda", [GPU_NODE], ActorShare(4, 1, 8)),
        ({}, "auto", [NodeSize(16, 8)], ActorShare(2, 1, 8)),
        ({}, "auto", [NodeSize(2, 4)], ActorShare(0.5, 1, 4)),
        ({"actors": 1}, "auto", [NodeSize(2, 4)], ActorShare(2, 1, 4)),
        ({"gpus_per_actor": 0.5}, "auto", [NodeSize(64, 2)], ActorShare(4, 0.5, 4)),
        ({"gpus_per_actor": 0.3}, "auto", [NodeSize(64, 1)], ActorShare(4, 0.3, 3)),
        ({"gpus_per_actor": 0.6}, "auto", [GPU_NODE], ActorShare(4, 0.6, 8)),  # two do not fit on one card
        ({"gpus_per_actor": 0.4}, "auto", [GPU_NODE], ActorShare(4, 0.4, 16)),
        ({"gpus_per_actor": 1}, "auto", [HEAD], ActorShare(4, 1, 1)),  # GPU nodes start on demand
        ({"gpus_per_actor": 0}, "auto", [GPU_NODE], ActorShare(64, 0, 1)),
        ({"cpus_per_actor": 6, "actors": 2}, "auto", [GPU_NODE], ActorShare(6, 1, 8)),
    ],
)
def test_shares(settings: dict, device: str, nodes: list[NodeSize], share: ActorShare) -> None:
    assert share_nodes(ClusterSettings(**settings), device, nodes) == share


def test_more_than_one_gpu_for_an_actor_is_refused_by_name() -> None:
    with pytest.raises(JobError, match=r"`cluster.gpus_per_actor` must be at most 1, because an actor .* \(it is 2\)"):
        Job.load(None, ["cluster.gpus_per_actor=2"], manifest="a.csv", output="out")


def test_actors_are_told_in_words() -> None:
    assert str(ExpectedActors()) == "1 actor on CPUs"
    assert str(ExpectedActors(8, 8, 1.0)) == "8 actors with a GPU each"
    assert str(ExpectedActors(1, 4, 0.5)) == "1 to 4 actors with 0.5 of a GPU each"


def test_a_job_alone_says_one_actor() -> None:
    def expect(*overrides: str) -> ExpectedActors:
        return expect_actors_of_job(Job.load(None, list(overrides), manifest="a.csv", output="out"))

    assert expect() == ExpectedActors(1, 1, 0.0)
    assert expect("model.device=cuda", "cluster.actors=4") == ExpectedActors(4, 4, 1.0)
    assert expect("cluster.gpus_per_actor=0.5") == ExpectedActors(1, 1, 0.5)


# ------------------------------------------------------------ threads


def test_an_actor_has_no_more_threads_than_its_share_of_what_is_left() -> None:
    usable = usable_cpus()
    assert choose_threads(1.0, 0.0) == 1
    assert choose_threads(1000.0, 0.0) == usable
    assert choose_threads(float(usable), float(usable)) == usable
    assert choose_threads(2.0 * usable, 4.0 * usable) == max(1, usable // 2)  # another actor has the other half
    assert choose_threads(0.5, 64.0) == 1


@pytest.mark.skipif(usable_cpus() < 2, reason="one CPU cannot be taken from another")
def test_the_affinity_counts_for_a_local_ray() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert actor_share.find_local_node().cpus == 1
        assert choose_threads(8.0, 8.0) == 1
    finally:
        os.sched_setaffinity(0, before)


def test_this_machine_without_ray() -> None:
    if torch.cuda.is_available():
        pytest.skip("it has a GPU")
    assert expect_local_actors(ClusterSettings(), "auto") == ExpectedActors(1, 1, 0.0)
    assert expect_local_actors(ClusterSettings(actors=3), "auto") == ExpectedActors(3, 3, 0.0)


# ------------------------------------------------------------ devices


@pytest.mark.skipif(torch.cuda.is_available(), reason="this torch can use the GPU")
def test_an_actor_with_a_gpu_that_torch_does_not_see_is_an_error_with_the_install_line(tmp_path) -> None:
    config = ActorInProcess(tmp_path, 4, str(tmp_path / "out")).config
    prepare_device(config)
    prepare_device(replace(config, gpus=1.0, device="cpu"))
    for device in ("auto", "cuda"):
        with pytest.raises(ModelError, match=r"given a GPU, but torch .* CUDA.*pip install .*torch --index-url"):
            prepare_device(replace(config, gpus=1.0, device=device))


def test_slots_are_agreed_by_the_devices_name(tmp_path) -> None:
    config = ActorInProcess(tmp_path, 4, str(tmp_path / "out")).config
    assert name_device(config) == "cpu"
    assert paths.slots_file("r1-1") == "runs/r1-1/slots.json"
    assert paths.slots_file("r1-1", "NVIDIA H100 80GB HBM3") == "runs/r1-1/slots-nvidia-h100-80gb-hbm3.json"
    assert paths.slots_file("r1-1", "NVIDIA A10 0.5") == "runs/r1-1/slots-nvidia-a10-0-5.json"


def test_an_actor_with_a_fraction_of_a_gpu_keeps_to_it(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(ActorInProcess(tmp_path, 4, str(tmp_path / "out")).config, device="auto")
    fractions: list[float] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA A10")
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", fractions.append)
    for gpus in (1.0, 0.25):
        prepare_device(replace(config, gpus=gpus))
    assert fractions == [0.25]
    assert [name_device(replace(config, gpus=gpus)) for gpus in (1.0, 0.25)] == ["NVIDIA A10", "NVIDIA A10 0.25"]
