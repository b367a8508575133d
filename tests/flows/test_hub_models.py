"""`musicgen plan` with a model of the hub: a server on loopback stands in for it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fixtures import audiocraft_checkpoint as audiocraft
from tests.fixtures.hub_server import Repository, read_folder, serve_hub
from tests.flows.conftest import Cli, told

MAIN, CONVERTED = "a" * 40, "b" * 40


def test_a_pull_request_is_refused_then_allowed_and_named(
    cli: Cli, write_rows: Callable[..., Path], text_checkpoint: Path, tmp_path: Path
) -> None:
    manifest = write_rows([{"prompt": "slow piano", "duration_s": "1"}])
    pickled = read_folder(text_checkpoint, **{"model.safetensors": None, "pytorch_model.bin": b"a pickle"})
    request = {"num": 7, "author": "SFconvertbot", "status": "open", "title": "Adding `safetensors` variant"}
    refs = {"main": MAIN, "refs/pr/7": CONVERTED}
    repository = Repository(refs, {MAIN: pickled, CONVERTED: read_folder(text_checkpoint)}, [request])
    job = ["plan", "--manifest", str(manifest), "--output", str(tmp_path / "ds"), "--model", "me/model"]
    with serve_hub({"me/model": repository}) as hub:
        env = hub.env(tmp_path / "home")
        refused = cli(*job, expect=2, **env)
        assert refused.stderr.count("\n") == 1
        assert "model.allow_pr=true" in refused.stderr
        allowed = cli(*job, "--set", "model.allow_pr=true", **env)
        report = told(cli(*job, "--set", "model.allow_pr=true", "--json", **env))
    assert f"The model is me/model at commit {CONVERTED}, of pull request 7 by SFconvertbot." in allowed.stdout
    assert report["model_revision"] == CONVERTED
    assert report["model_pull_request"] == {"number": 7, "author": "SFconvertbot", "commit": CONVERTED}
    assert not (tmp_path / "ds").exists()


def test_what_a_checkpoint_cannot_do_is_said_by_plan(
    cli: Cli, write_rows: Callable[..., Path], text_checkpoint: Path, tmp_path: Path
) -> None:
    manifest = write_rows([{"prompt": "slow piano", "duration_s": "1"}])
    folder = tmp_path / "model"
    folder.mkdir()
    for name, content in read_folder(text_checkpoint).items():
        (folder / name).write_bytes(content)
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(
        config.replace('"activation_function": "gelu"', '"activation_function": "relu"')
    )
    job = ["--manifest", str(manifest), "--output", str(tmp_path / "ds"), "--model", str(folder)]
    for command in ("plan", "run"):
        refused = cli(command, *job, expect=2)
        assert "activation_function 'relu' is not supported" in refused.stderr
        assert refused.stderr.count("\n") == 1
    assert not (tmp_path / "ds").exists()


@pytest.mark.slow
def test_a_model_of_the_hub_is_converted_with_what_it_needs(
    cli: Cli, write_rows: Callable[..., Path], text_checkpoint: Path, tmp_path: Path
) -> None:
    """An audiocraft checkpoint whose T5 and EnCodec are on the hub, into a folder that `plan` accepts."""
    text, codec = audiocraft.split_companions(text_checkpoint, tmp_path / "companions")
    source = audiocraft.write_audiocraft(tmp_path / "source", audiocraft.small_model(), audiocraft.small_settings())
    repositories = {
        "me/model": Repository.of_folder(source, MAIN),
        "google-t5/t5-base": Repository.of_folder(text, CONVERTED, **{"tf_model.h5": b"not wanted"}),
        "facebook/encodec_32khz": Repository.of_folder(codec, CONVERTED),
    }
    with serve_hub(repositories) as hub:
        env = hub.env(tmp_path / "home")
        done = told(cli("convert", "me/model", "new", "--json", **env))
        again = cli("convert", "me/model", "new", expect=2, **env)
    assert done["source"] == f"me/model@{MAIN}"
    assert done["companions"] == {
        "text_encoder": f"google-t5/t5-base@{CONVERTED}",
        "codec": f"facebook/encodec_32khz@{CONVERTED}",
    }
    assert done["isolation"] in ("its own network namespace", "sockets disabled")
    assert not any("h5" in request for request in hub.requests)
    assert "is there already and not empty" in again.stderr
    manifest = write_rows([{"prompt": "slow piano", "duration_s": "1"}])
    cli("plan", "--manifest", str(manifest), "--output", str(tmp_path / "ds"), "--model", "./new")
