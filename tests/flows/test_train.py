"""`musicgen train` as a user types it: on a folder, on a dataset that the flow made, and what goes wrong."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from typer.testing import CliRunner, Result

from flows.cli.main import app
from tests.fixtures.random_checkpoint import Sizes, write_checkpoint


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random text checkpoint."""
    return write_checkpoint(tmp_path_factory.mktemp("start") / "checkpoint", Sizes(), seed=1)


def _train(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["train", *map(str, arguments)])


def test_a_folder_is_trained_on_and_gone_on_with(start: Path, tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    soundfile.write(data / "a.wav", 0.3 * np.sin(np.arange(32_000) / 20), 32_000)
    pq.write_table(
        pa.table({"audio": ["a.wav", "b.wav"], "prompt": ["a tone", "not there"]}), data / "captions.parquet"
    )

    arguments = ["--data", data, "--output", out, "--from", start, "--set", "training.batch_frames=100"]
    made = _train(*arguments, "--steps", 2)
    assert made.exit_code == 0, made.output
    assert "b.wav: there is no" in made.stderr
    assert "step      2  100.0 %" in made.stderr
    assert made.stdout.startswith(f"the trained model is {out / 'export'}; ")
    more = _train(*arguments, "--steps", 3)
    assert more.exit_code == 0, more.output
    assert "step      3  100.0 %" in more.stderr
    assert "step      2" not in more.stderr


def test_mistakes_are_one_line_and_exit_2(start: Path, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("output: x\ntraning: {steps: 1}\n")
    for arguments, named in [
        ([tmp_path / "r.yaml"], "did you mean `training`"),
        ([tmp_path / "none.yaml"], "none.yaml"),
        (["--output", tmp_path / "out", "--data", tmp_path / "none", "--steps", 1], "none"),
        (["--output", tmp_path / "out", "--data", tmp_path], "either steps or hours"),
        (["--data", tmp_path, "--steps", 1], "--output"),
        (["--output", tmp_path / "out", "--data", tmp_path, "--steps", 1, "--pattern", "delya"], "delay"),
        (["--output", tmp_path / "out", "--data", tmp_path, "--steps", 1, "--from", "musicgen-smal"], "musicgen-small"),
    ]:
        result = _train(*arguments)
        assert result.exit_code == 2, (arguments, result.output)
        assert len(result.stderr.strip().splitlines()) == 1, result.stderr
        assert named in result.stderr
    assert not (tmp_path / "out" / "export").exists()


def test_an_ablation_names_the_judges_that_are_missing_before_it_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(
        "musicgen.evaluation.extras.find_spec", lambda name: None if name == "swift_f0" else found(name)
    )
    result = _train("--output", tmp_path / "out", "--steps", 1, "--set", "ablation=[delay, parallel]")
    assert result.exit_code == 2, result.output
    assert "swift-f0" in result.stderr
    assert not (tmp_path / "out").exists()
