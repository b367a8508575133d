"""`musicgen evaluate` as a user types it."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli.main import app
from tests.musicgen.evaluation import band

run = CliRunner().invoke


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return band.write(tmp_path_factory.mktemp("band") / "corpus", 24, 3.0)


@pytest.mark.slow
def test_random_weights_fall_short_by_name(corpus: Path, melody_checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run(
        app,
        ["evaluate", str(melody_checkpoint), "--corpus", str(corpus), "--clips", "6", "--output", str(out), "--json"],
    )
    assert done.exit_code == 4, done.output
    told = json.loads(done.stdout)
    assert told == json.loads((out / "report.json").read_text())
    assert {"codec.value", "melody.ratio", "melody.n", "instrument.p"} <= {
        held["measure"] for held in told["bounds"] if not held["met"]
    }
    assert len(list((out / "clips").glob("melody-*.flac"))) == len(list((out / "clips").glob("text-*.flac"))) == 6
    assert "the model makes 12 clips" in done.stderr
    assert "--clips 6 is fewer than the 100 that the bound melody.n asks for" in done.stderr


def test_a_model_or_corpus_that_is_none_is_one_line(corpus: Path, tmp_path: Path) -> None:
    for args in (
        [str(tmp_path / "no-model"), "--corpus", str(corpus)],
        ["embedded", "--corpus", str(tmp_path)],
        ["embedded", "--clips", "1"],
    ):
        done = run(app, ["evaluate", *args, "--output", str(tmp_path / "out")])
        assert done.exit_code == 2, done.output
        assert done.stderr.startswith("musicgen: ")
        assert done.stderr.count("\n") == 1
        assert not (tmp_path / "out").exists()


def test_what_is_not_installed_is_named_with_the_command(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(
        "musicgen.evaluation.extras.find_spec", lambda name: None if name == "swift_f0" else found(name)
    )
    done = run(app, ["evaluate", "embedded", "--corpus", str(corpus), "--output", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert "swift-f0" in done.stderr
    assert "pip install '.[evaluate,train]'" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_shipped_weights_keep_every_bound(tmp_path: Path) -> None:
    """The real command on the weights in the package, with a corpus made on the spot: seven minutes on two free cores
    with AVX512-BF16, some three times that without.

    More examples than the command's 120, which leave a standard error as large as mode's distance from its bound.
    """
    done = run(app, ["evaluate", "embedded", "--clips", "480", "--output", str(tmp_path / "out")])
    assert done.exit_code == 0, done.stdout
    told = json.loads((tmp_path / "out" / "report.json").read_text())
    assert told["sound"]
    assert told["measures"]["tempo.melody"] > 0.5, told["measures"]  # beside a melody too
