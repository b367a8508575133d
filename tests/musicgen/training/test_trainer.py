"""Training: losses fall, an interrupted training ends where one in one piece does, and what drops out is decided by the
seed.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from musicgen import patterns
from musicgen.errors import UserError
from musicgen.model import resolve_checkpoint
from musicgen.storage import open_store
from musicgen.training.batch import Dropout
from musicgen.training.log import format_progress, read_log
from musicgen.training.schedule import Schedule
from musicgen.training.tokens import TokenizedData, make_tokens
from musicgen.training.trainer import Trainer
from tests.fixtures.random_checkpoint import Sizes as Random
from tests.fixtures.random_checkpoint import write_checkpoint


@pytest.fixture(scope="module")
def ground(music: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TokenizedData]:
    """A random melody checkpoint, and the music in its codec's tokens."""
    folder = tmp_path_factory.mktemp("ground")
    start = resolve_checkpoint(write_checkpoint(folder / "start", Random(kind="melody", hidden=32), seed=0))
    return start.folder, make_tokens(open_store(str(music)), start, folder / "tokens", progress=lambda _: None)


def _schedule(**changes: object) -> Schedule:
    settings = {
        "steps": 12,
        "batch_frames": 240,
        "crop_s": (0.6, 1.0),
        "warmup_steps": 3,
        "learning_rate": 5e-3,
        "valid_steps": 4,
    }
    return Schedule.model_validate(settings | {"checkpoint_s": 1e-9, "export_s": 1e9} | changes)


def _trainer(ground: tuple[Path, TokenizedData], folder: Path, **changes: object) -> Trainer:
    return Trainer(resolve_checkpoint(ground[0]), ground[1], _schedule(**changes), folder)


@pytest.mark.parametrize(
    "pattern", ["delay", *(pytest.param(p, marks=pytest.mark.slow) for p in ("parallel", "coarse_first", "flattening"))]
)
def test_the_loss_falls(ground: tuple[Path, TokenizedData], tmp_path: Path, pattern: str) -> None:
    trainer = _trainer(ground, tmp_path, pattern=pattern, steps=30, dtype="float32", ema=0.5)
    trainer.run()
    lines = read_log(tmp_path / "log.jsonl")
    assert lines[-1]["valid"] < 0.9 * lines[0]["valid"]
    assert lines[-1]["progress"] == 1
    assert (tmp_path / "loss.png").stat().st_size > 1000


def test_the_loss_counts_every_code_once(ground: tuple[Path, TokenizedData], tmp_path: Path) -> None:
    """The blocked cross-entropy and its gradients are torch's own, over real codes alone."""
    trainer = _trainer(ground, tmp_path, pattern="partial_delay", dtype="float32")
    batch = trainer.train_loader.batches(0, 0, 1)[0][0]
    loss, each = trainer.network(batch)
    loss.backward()
    found = {name: p.grad.clone() for name, p in trainer.network.named_parameters() if p.grad is not None}
    trainer.network.zero_grad()
    logits = trainer.network.logits(batch)
    losses = [torch.nn.functional.cross_entropy(logits[:, :, k].transpose(1, 2), batch.targets[:, k]) for k in range(4)]
    torch.stack(losses).mean().backward()
    assert torch.allclose(each, torch.stack(losses).detach(), atol=1e-5)
    for name, p in trainer.network.named_parameters():
        if p.grad is not None:
            assert torch.allclose(found[name], p.grad, atol=1e-6), name
    frames = sum(batch.frames for batch in [batch])
    assert int((batch.targets >= 0).sum()) == 4 * frames
    assert batch.inputs.shape[2] == patterns.count_steps("partial_delay", 4, frames // len(batch.inputs)) - 1


def test_a_resumed_training_ends_where_an_uninterrupted_one_does(
    ground: tuple[Path, TokenizedData], tmp_path: Path
) -> None:
    whole = _trainer(ground, tmp_path / "whole")
    whole.run()
    _trainer(ground, tmp_path / "parts").run(until=5)
    later = _trainer(ground, tmp_path / "parts")
    assert later.counters.step == 5
    later.run()
    for ours, theirs in zip(whole.average.parameters(), later.average.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    steps = [line["step"] for line in read_log(tmp_path / "parts" / "log.jsonl")]
    assert steps == sorted(set(steps))
    assert len(list((tmp_path / "parts" / "state").iterdir())) == 2


def test_a_killed_training_goes_on_from_its_last_state(ground: tuple[Path, TokenizedData], tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom musicgen.model import resolve_checkpoint\n"
        "from musicgen.training.tokens import TokenizedData\nfrom musicgen.training.schedule import Schedule\n"
        "from musicgen.training.trainer import Trainer\n"
        "start, tokens, folder, schedule = sys.argv[1:]\n"
        "data, schedule = TokenizedData.open(Path(tokens)), Schedule.model_validate_json(schedule)\n"
        "trainer = Trainer(resolve_checkpoint(start), data, schedule, Path(folder))\n"
        "trainer._on_step = lambda line: print(line['step'], flush=True)\ntrainer.run()\n"
    )
    schedule = _schedule(steps=100_000)
    arguments = [str(ground[0]), str(ground[0].parent / "tokens"), str(tmp_path), schedule.model_dump_json()]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3]
    )
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= 8:
            break
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    later = _trainer(ground, tmp_path, steps=100_000)
    assert later.counters.step >= 7
    step = later.counters.step
    later.run(until=step + 1)
    assert read_log(tmp_path / "log.jsonl")[-1]["step"] == step + 1


def test_short_trainings_warn_and_the_time_left_is_never_negative() -> None:
    assert "29 steps are few" in Schedule(steps=29).warn_if_short()
    assert "training.warmup_steps" in Schedule(steps=29).warn_if_short()
    assert "0.03 hours are short" in Schedule(hours=0.03).warn_if_short()
    assert Schedule(steps=400).warn_if_short() == Schedule(hours=1).warn_if_short() == ""
    assert Schedule(steps=2, warmup_steps=0).warn_if_short() == ""
    line = {"step": 29, "progress": 1.0, "loss": 6.36, "each": [6.34], "frames_per_s": 100.0}
    assert " 0 s left" in format_progress(line | {"left_s": -3.0})
    assert " 45 s left" in format_progress(line | {"left_s": 45.0})
    assert " 2 min left" in format_progress(line | {"left_s": 120.0})


def test_hours_are_hours_of_running_and_end_the_cosine() -> None:
    schedule = Schedule(hours=2, warmup_steps=10, learning_rate=1.0, final_learning_rate=0.1)
    assert schedule.learning_rate_at(0, 0) == pytest.approx(0.1)
    assert schedule.learning_rate_at(100, 3600) == pytest.approx(0.55)
    assert schedule.learning_rate_at(10_000, 7200) == pytest.approx(0.1)
    assert schedule.progress(10_000, 7200) == 1
    with pytest.raises(ValueError, match="either steps or hours"):
        Schedule()
    with pytest.raises(ValueError, match="unknown codebook pattern"):
        Schedule(steps=1, pattern="delya")


def test_every_condition_is_dropped_with_its_probability(ground: tuple[Path, TokenizedData], tmp_path: Path) -> None:
    trainer = _trainer(ground, tmp_path, dropout=Dropout(all=0.2, text=0.3, melody=0.1), batch_frames=30_000)
    batches = [batch for step in range(4) for batch in trainer.train_loader.batches(step, 0, 2)[0]]
    text = np.concatenate([batch.text_kept.numpy() for batch in batches])
    melody = np.concatenate([batch.pitch_classes.numpy().any(axis=1) for batch in batches])
    assert len(text) > 1000
    assert np.mean(~text & ~melody) == pytest.approx(0.2, abs=0.06)
    assert np.mean(~text & melody) == pytest.approx(0.3, abs=0.06)
    assert np.mean(text & ~melody) == pytest.approx(0.1, abs=0.06)


def test_a_hidden_past_changes_inputs_but_not_targets(ground: tuple[Path, TokenizedData], tmp_path: Path) -> None:
    for chance, least, most in ((0.0, 0.0, 0.0), (1.0, 0.35, 0.65)):
        trainer = _trainer(ground, tmp_path, dropout=Dropout(past=chance), crop_s=(1, 1), batch_frames=5000)
        batch = trainer.train_loader.batches(0, 0, 1)[0][0]
        shown = batch.inputs[:, :, 1:] == batch.targets[:, :, :-1]  # an input is the target of the step before it
        there = batch.targets[:, :, :-1] >= 0
        assert int((batch.targets >= 0).sum()) == 4 * 50 * len(batch.inputs)
        assert (batch.inputs[:, :, 1:][there & ~shown] == 64).all()
        assert least <= float((~shown[there]).float().mean()) <= most  # a part between none and all


def test_cuts_keep_codes_and_melody_in_step(ground: tuple[Path, TokenizedData], tmp_path: Path) -> None:
    trainer = _trainer(ground, tmp_path, crop_s=(0.5, 0.5))
    clip = trainer.train_loader.clip(0)
    whole = {tuple(clip.codes[:, start : start + 25].ravel()): start for start in range(clip.codes.shape[1] - 24)}
    seen = set()
    for step in range(40):
        batch = trainer.train_loader.batches(step, 0, 1)[0][0]
        for row in range(len(batch.inputs)):
            codes = patterns.revert_steps("delay", np.pad(batch.targets[row].numpy(), ((0, 0), (1, 0))), 25)
            start = whole.get(tuple(codes.ravel()))
            if start is not None and batch.pitch_classes[row].any():
                first = round(start / 6.4)
                assert np.array_equal(batch.pitch_classes[row].numpy(), np.resize(clip.pitch_classes[first:], 235))
                seen.add(start)
    assert len(seen) > 1


def test_a_state_of_another_training_is_refused(ground: tuple[Path, TokenizedData], tmp_path: Path) -> None:
    _trainer(ground, tmp_path).run(until=1)
    with pytest.raises(UserError, match="whose pattern is 'delay', not 'parallel'"):
        _trainer(ground, tmp_path, pattern="parallel")


def test_unusable_rows_are_listed_and_the_others_used(
    ground: tuple[Path, TokenizedData], music: Path, tmp_path: Path
) -> None:
    tokens = ground[1]
    assert len(tokens.clips) == 10
    assert [name for name, _ in tokens.bad_rows] == ["audio/noise.flac", "audio/absent.flac"]
    assert "is not a wav, flac, mp3 or ogg file" in tokens.bad_rows[0][1]
    assert "audio/absent.flac" in tokens.bad_rows[1][1]
    assert tokens.split("valid") == [9]
    assert json.loads((ground[0].parent / "tokens" / "bad.json").read_text())[1][0] == "audio/absent.flac"
