"""AudioLDM 2 beside MusicGen: two jobs on one manifest with MusicCaps' columns, from a bucket to a bucket."""

import csv
import io
import signal
from pathlib import Path

import pytest

import musicgen.dataset
from musicgen.storage import open_store
from tests.conftest import S3
from tests.flows.conftest import Cli, told
from tests.flows.test_run import strike_and_go_on

pytestmark = pytest.mark.timeout(290, func_only=True)
pytest.importorskip("diffusers", reason="the extra `diffusion` is not installed")

COLUMNS = (
    *("ytid", "start_s", "end_s", "audioset_positive_labels", "aspect_list", "caption", "author_id"),
    *("is_balanced_subset", "is_audioset_eval"),
)


def write_captions(rows: int) -> bytes:
    """A table with MusicCaps' columns; the captions are ours."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for index in range(rows):
        caption = f"A slow piano tune, number {index}, with warm strings."
        writer.writerow([f"y{index}", 30, 40, "/m/04rlf", "['slow', 'piano']", caption, index % 3, "False", "True"])
    return text.getvalue().encode()


@pytest.fixture(scope="module")
def audioldm2_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.fixtures.audioldm2_checkpoint import write_audioldm2

    return write_audioldm2(tmp_path_factory.mktemp("audioldm2"))


def write_job(cli: Cli, s3: S3, name: str, model: str, generation: str) -> str:
    job = cli.folder / f"{name}.yaml"
    job.write_text(f"""
manifest: {{uri: {s3.uri}/captions.csv, columns: {{prompt: caption, id: ytid}}}}
model: {{name: {model}}}
generation: {{duration_s: 0.5, {generation}}}
cluster: {{cpus_per_actor: 1, shard_rows: 2}}
output: {{uri: {s3.uri}/{name}}}
""")
    return str(job)


def upload(s3: S3, checkpoint: Path, rows: int) -> None:
    """The captions, and AudioLDM 2's checkpoint under `model`."""
    store = open_store(s3.uri)
    store.write("captions.csv", write_captions(rows))
    for file in checkpoint.rglob("*"):
        if file.is_file():
            store.write(f"model/{file.relative_to(checkpoint)}", file.read_bytes())


@pytest.mark.slow
def test_captions_in_a_bucket_become_a_dataset(served_cli: Cli, s3: S3, audioldm2_checkpoint: Path) -> None:
    upload(s3, audioldm2_checkpoint, rows=2)
    served_cli("run", write_job(served_cli, s3, "denoised", f"{s3.uri}/model", "steps: 2"))
    assert "OK; 2 rows" in served_cli("verify", f"{s3.uri}/denoised", "--deep").stdout
    rows = musicgen.dataset.open(f"{s3.uri}/denoised").to_arrow(["family", "steps", "aspect_list"]).to_pylist()
    assert rows == 2 * [{"family": "audioldm2", "steps": 2, "aspect_list": "['slow', 'piano']"}]


@pytest.mark.slow
def test_both_families_make_one_manifest(served_cli: Cli, s3: S3, audioldm2_checkpoint: Path) -> None:
    upload(s3, audioldm2_checkpoint, rows=8)
    denoised = write_job(served_cli, s3, "denoised", f"{s3.uri}/model", "steps: 3, negative_prompt: Low quality.")
    planned = told(served_cli("plan", denoised, "--json"))
    assert (planned["new"], planned["shards"]) == (8, 4)

    strike_and_go_on(served_cli, ["run", denoised], f"{s3.uri}/denoised", signal.SIGKILL)
    assert "OK; 8 rows" in served_cli("verify", f"{s3.uri}/denoised", "--deep").stdout
    rows = musicgen.dataset.open(f"{s3.uri}/denoised").to_arrow().to_pylist()
    assert {(row["family"], row["steps"], row["negative_prompt"]) for row in rows} == {("audioldm2", 3, "Low quality.")}
    assert {(row["sample_rate"], row["duration_s"], row["frames"]) for row in rows} == {(16_000, 0.5, 50)}
    assert {row["guidance_scale"] for row in rows} == {3.5}, "AudioLDM 2's own default"
    assert {row["aspect_list"] for row in rows} == {"['slow', 'piano']"}
    assert len({row["audio_sha256"] for row in rows}) == 8

    generated = write_job(served_cli, s3, "generated", "embedded", "seed: 0")
    served_cli("run", generated)
    others = musicgen.dataset.open(f"{s3.uri}/generated").to_arrow().to_pylist()
    assert {(row["family"], row["steps"], row["guidance_scale"]) for row in others} == {("musicgen", None, 3.0)}
    assert {row["id"] for row in others} == {row["id"] for row in rows}


@pytest.mark.parametrize(
    ("generation", "more", "reason"),
    [
        ("top_k: 50", (), "generation.top_k is not read by"),
        ("steps: 3", ("--set", "audio.codes=true"), "has no codes"),
        ("steps: 3", ("--set", "manifest.columns={prompt: caption, melody: ytid}"), "which"),
    ],
)
def test_what_the_family_does_not_read_stops_the_job(
    cli: Cli, audioldm2_checkpoint: Path, generation: str, more: tuple[str, ...], reason: str
) -> None:
    (cli.folder / "captions.csv").write_bytes(write_captions(2))
    job = cli.folder / "job.yaml"
    job.write_text(f"""
manifest: {{uri: captions.csv, columns: {{prompt: caption}}}}
model: {{name: {audioldm2_checkpoint}}}
generation: {{duration_s: 0.5, {generation}}}
output: {{uri: out}}
""")
    refused = cli("plan", str(job), *more, expect=2)
    assert reason in refused.stderr
    assert "Traceback" not in refused.stderr
