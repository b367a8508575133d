"""One actor, in this process: whom it blames for a fault, and what it keeps meanwhile."""

import json
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from actors.agreed_engine import AgreedSlots
from actors.generator import Generator, load_engine
from actors.messages import NodeFault, ShardAttempt, SlotsLowered
from musicgen.clip import Clip
from musicgen.dataset import paths
from musicgen.dataset.index_part import Footer, schema_with, write_part
from musicgen.dataset.schema import index_schema
from musicgen.errors import ModelError
from musicgen.job_sections import ModelSettings
from musicgen.request import Request
from tests.actors.engines import ScriptedEngine
from tests.actors.in_process import ActorInProcess, make_noise


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a file system of a given size: `small_disk("1m")`."""
    mounted: list[Path] = []

    def mount(size: str) -> Path:
        folder = tmp_path / f"disk-{size}"
        folder.mkdir(exist_ok=True)
        options = f"{'remount,' if folder in mounted else ''}size={size}"
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False
        )
        if done.returncode:
            pytest.skip("mounting a small disk needs root")
        if folder not in mounted:
            mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.parametrize("layout", ["parquet", "webdataset"])
def test_a_full_disk_for_temporary_files_is_a_fault_of_the_node(tmp_path, small_disk, monkeypatch, layout):
    actor = ActorInProcess(tmp_path, 12, str(tmp_path / "out"), audio={"layout": layout})
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk("300k")))
    with pytest.raises(NodeFault, match=r"for temporary files \(.*disk-300k\): No space left.*TMPDIR"):
        actor.generator.make_shard(ShardAttempt(0))
    assert not list(actor.store.list("index"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    report = actor.generator.make_shard(ShardAttempt(0, number=1))  # the actor itself is well
    assert (report.won, report.made, report.failed) == (True, 12, 0)


def test_a_harmless_trial_makes_another_clip_of_the_rows_length_and_writes_nothing(tmp_path):
    made = []

    def make(request: Request) -> Clip:
        made.append(request)
        return make_noise(request)

    actor = ActorInProcess(tmp_path, 2, str(tmp_path / "out"), make=make)
    before = [file.path for file in actor.store.list()]
    report = actor.generator.make_shard(ShardAttempt(0, row_range=(1, 2), harmless=True))
    assert (report.won, report.made) == (False, 1)
    assert [(request.prompt, request.duration_s) for request in made] == [("piano", 1.0)]
    assert [file.path for file in actor.store.list()] == before


def test_a_closed_shard_is_reported_with_the_run_that_closed_it(tmp_path):
    actor = ActorInProcess(tmp_path, 4, str(tmp_path / "out"))
    run = actor.plan.run
    footer = Footer(run, 0, "closed", rows=4, made=0, failed=0, failures=None, audio_s=0.0, closed="r9-2")
    write_part(tmp_path / "part", schema_with(index_schema("files"), footer), [])
    with actor.making() as making:
        assert making.result().closed_by is None
    actor.store.delete(paths.index_part(run, 0))
    actor.store.write(paths.index_part(run, 0), tmp_path / "part")
    report = actor.generator.make_shard(ShardAttempt(0, number=1))
    assert (report.won, report.closed_by) == (False, "r9-2")


def test_a_shard_that_is_closed_while_it_is_made_is_reported_so(tmp_path):
    actor = ActorInProcess(tmp_path, 4, str(tmp_path / "out"))
    run = actor.plan.run
    footer = Footer(run, 0, "closed", rows=4, made=0, failed=0, failures=None, audio_s=0.0, closed="r9-2")
    write_part(tmp_path / "part", schema_with(index_schema("files"), footer), [])
    actor.engine.may_step.clear()
    with actor.making() as making:
        while not actor.generator._running:
            pass
        actor.store.write(paths.index_part(run, 0), tmp_path / "part")
        actor.engine.may_step.set()
    report = making.result()
    assert (report.won, report.closed_by) == (False, "r9-2")


def test_temporary_files_of_killed_actors_are_removed_when_an_actor_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left = tmp_path / "musicgen-12345-abcdefgh"
    left.mkdir()
    for name in (".musicgen-lock", "shard.tar"):
        (left / name).touch()
    ActorInProcess(tmp_path, 4, str(tmp_path / "out"))
    assert not left.exists()


# ------------------------------------------------------------ slots and checkpoint


def out_of_memory(config):
    raise MemoryError(f"{config.slots} slots take 163.8 GB, and 20.1 GB are free; 32 would fit")


def test_slots_that_do_not_fit_are_named_with_their_file_and_the_job_can_set_others(tmp_path):
    actor = ActorInProcess(tmp_path, 4, str(tmp_path / "out"), cluster={"slots": "auto"})
    path = paths.slots_file(actor.plan.run)
    assert json.loads(actor.store.read(path))["slots"] == 4
    actor.store.write(path, b'{"slots": 400000}')
    with pytest.raises(NodeFault, match=rf"400000 slots, .*{path}.* 32 would fit.*cluster.slots"):
        Generator(actor.config, out_of_memory).load_model()
    again = ActorInProcess(tmp_path, 4, str(tmp_path / "out"), cluster={"slots": 4})
    assert again.plan == actor.plan
    assert again.config.slots == 4
    assert again.generator.make_shard(ShardAttempt(0)).made == 4


def test_an_actor_that_runs_out_of_memory_leaves_fewer_slots_to_its_replacement(tmp_path):
    actor = ActorInProcess(tmp_path, 12, str(tmp_path / "out"), cluster={"slots": "auto"})
    path = paths.slots_file(actor.plan.run)
    engine = actor.engine
    step = engine.step

    def shrink() -> list[object]:
        engine.step = step
        engine.slots = 2
        return []

    def step_and_shrink() -> list[object]:
        engine.step = shrink
        return step()

    engine.step = step_and_shrink
    with pytest.raises(SlotsLowered, match="ran out of memory with 4 slots"):
        actor.generator.make_shard(ShardAttempt(0))
    assert json.loads(actor.store.read(path))["slots"] == 2
    assert not list(actor.store.list("index"))
    asked = []

    def make_smaller(config):
        asked.append(config.slots)
        return ScriptedEngine(slots=config.slots, make=make_noise)

    replacement = Generator(actor.config, make_smaller)
    assert replacement.load_model().slots == 2
    assert asked == [2]
    assert replacement.make_shard(ShardAttempt(0, number=1)).made == 12


def test_unlike_devices_agree_on_slots_of_their_own(tmp_path):
    actor = ActorInProcess(tmp_path, 4, str(tmp_path / "out"), cluster={"slots": "auto"})
    large, small = (AgreedSlots(actor.store, actor.config, name) for name in ("NVIDIA H100", "NVIDIA A10"))
    assert (large.read(), large.propose(64), small.propose(16)) == (None, 64, 16)
    assert large.propose(48) == 64  # somebody was first
    large.lower(32)
    large.lower(50)  # another one is late
    assert (large.read(), small.read(), AgreedSlots(actor.store, actor.config, "cpu").read()) == (32, 16, 4)


def test_the_real_engine_says_how_many_slots_would_fit(tmp_path, text_checkpoint):
    from musicgen.model import load_model, resolve_checkpoint
    from tests.fixtures.engines import make_engine

    model = load_model(resolve_checkpoint(str(text_checkpoint)), "cpu", "float32")
    with pytest.raises(MemoryError, match=r"400000000 slots take \d+\.\d GB, and .* GB are free; \d+ would fit"):
        make_engine(model, slots=400_000_000)


def test_a_checkpoint_that_has_moved_is_found_by_the_jobs_own_name(tmp_path, text_checkpoint):
    from musicgen.model import resolve_checkpoint

    actor = ActorInProcess(tmp_path, 4, str(tmp_path / "out"))
    identity = resolve_checkpoint(str(text_checkpoint)).identity
    plan = replace(actor.plan, model=replace(actor.plan.model, name="/gone/checkpoint", identity=identity))
    config = replace(actor.config, plan=plan, model=ModelSettings(name=str(text_checkpoint)))
    engine = load_engine(config)
    assert engine.slots == 4
    engine.close()
    with pytest.raises(ModelError, match=r"embedded on .* is another checkpoint .* than /gone/checkpoint"):
        load_engine(replace(config, model=ModelSettings(name="embedded")))
    with pytest.raises(ModelError, match="no model '/elsewhere'"):
        load_engine(replace(config, model=ModelSettings(name="/elsewhere")))
