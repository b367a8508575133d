"""A tiny checkpoint of each format in a bucket, converted into a bucket if it is pickled, and a run with it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from musicgen.storage import open_store
from tests.conftest import S3
from tests.fixtures import audiocraft_checkpoint as audiocraft
from tests.fixtures.random_checkpoint import write_pickled
from tests.flows.conftest import Cli, sounds, told
from tests.flows.test_run import SMALL
from tests.musicgen.conditioning.music import encoded, tune
from tests.musicgen.conditioning.style_checkpoint import write_audiocraft_style, write_style_checkpoint

pytestmark = pytest.mark.timeout(290, func_only=True)


def upload(folder: Path, uri: str) -> str:
    """Put a folder's files into a bucket."""
    store = open_store(uri)
    for path in folder.iterdir():
        store.write(path.name, path)
    return uri


def write_source(kind: str, text_checkpoint: Path, folder: Path) -> tuple[Path, dict[str, Path]]:
    """A checkpoint of that kind, and the models that it needs by the option that names them."""
    if kind == "safetensors":
        return text_checkpoint, {}
    if kind == "pickled":
        return write_pickled(text_checkpoint, folder / "source", shards=2), {}
    if kind == "style":
        original = write_style_checkpoint(folder / "style", heads=8)
        source, features = write_audiocraft_style(original, folder)
        text, codec = audiocraft.split_companions(original, folder / "parts")
        return source, {"--text-encoder": text, "--codec": codec, "--style-encoder": features}
    text, codec = audiocraft.split_companions(text_checkpoint, folder / "parts")
    sound = {"sound": audiocraft.CHROMA} if kind == "melody" else {}
    model = audiocraft.small_model(sound=12 if kind == "melody" else None)
    source = audiocraft.write_audiocraft(folder / "source", model, audiocraft.small_settings(**sound))
    return source, {"--text-encoder": text, "--codec": codec}


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=pytest.mark.slow) for kind in ("safetensors", "pickled", "text", "melody", "style")],
)
def test_a_checkpoint_converts_and_runs_from_bucket_to_bucket(
    served_cli: Cli, s3: S3, text_checkpoint: Path, write_rows: Callable[..., Path], tmp_path: Path, kind: str
) -> None:
    source, needs = write_source(kind, text_checkpoint, tmp_path)
    model = upload(source, f"{s3.uri}/source")
    options = [part for option, folder in needs.items() for part in (option, upload(folder, f"{s3.uri}/{folder.name}"))]
    if kind != "safetensors":
        done = told(served_cli("convert", model, f"{s3.uri}/converted", *options, "--json"))
        assert done["target"] == f"{s3.uri}/converted"
        model = done["target"]
    rows: list[dict[str, object]] = [{"prompt": "slow piano"}, {"prompt": "fast drums"}]
    if kind in ("melody", "style"):
        open_store(s3.uri).write("tune.wav", encoded(tune(4.0)))
        rows[0]["melody"] = f"{s3.uri}/tune.wav"
    open_store(s3.uri).write("rows.csv", write_rows(rows).read_bytes())
    job = ["--manifest", f"{s3.uri}/rows.csv", "--output", f"{s3.uri}/set", "--model", model]
    served_cli("run", *job, *SMALL)
    assert len(sounds(f"{s3.uri}/set")) == 2
    served_cli("verify", f"{s3.uri}/set", "--deep")
