"""`musicgen encode` and `decode` as a user types them."""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from typer.testing import CliRunner

from flows.cli.main import app
from musicgen.dataset.tombstones import NO_ENTRY, ClipPlace, put_entry
from musicgen.storage import open_store


def test_encode_names_what_it_could_not_read_and_decode_gives_files(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", 0.3 * np.sin(np.arange(22050) * 2 * np.pi * 440 / 22050), 22050)
    (tmp_path / "m.csv").write_text("file,id\na.wav,one\nnone.wav,two\n")
    run = CliRunner().invoke
    codes, out = str(tmp_path / "codes.parquet"), str(tmp_path / "out")

    made = run(app, ["encode", str(tmp_path / "m.csv"), codes, "--column", "file"])
    assert made.exit_code == 3
    assert "m.csv:3: audio none.wav does not exist" in made.stderr
    assert [row["frames"] for row in pq.read_table(codes).to_pylist()] == [50, None]

    back = run(app, ["decode", codes, out, "--format", "wav"])
    assert back.exit_code == 0, back.output
    audio, rate = soundfile.read(Path(out, "one.wav"))
    assert (len(audio), rate) == (16_000, 16_000)

    dataset = tmp_path / "dataset"  # its other tables have no codes
    for path in ("failures/r-1/plan.parquet", "runs/r-1/rows.parquet", "huggingface.parquet"):
        (dataset / path).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pq.read_table(codes).select(["id"]), dataset / path)
    (dataset / "dataset.json").write_text("{}")
    (dataset / "index/r-1").mkdir(parents=True)
    Path(codes).rename(dataset / "index/r-1/part-00000.parquet")
    for number, uri in enumerate((dataset, f"{dataset}/", dataset / "index")):
        back = run(app, ["decode", str(uri), str(tmp_path / f"out-{number}")])
        assert back.exit_code == 0, back.output
        assert [path.name for path in (tmp_path / f"out-{number}").glob("*.flac")] == ["one.flac"]
    codes = str(dataset / "index")

    part = pq.read_table(dataset / "index/r-1/part-00000.parquet")
    keys = pa.array([letter * 64 for letter in "ab"][: len(part)])
    pq.write_table(part.append_column("key", keys), dataset / "index/r-1/part-00000.parquet")
    assert put_entry(open_store(str(dataset)), ClipPlace("a" * 64, "r-1", 0), NO_ENTRY, "removed")
    back = run(app, ["decode", str(dataset), str(tmp_path / "less"), "--json"])
    assert json.loads(back.stdout)["made"] == 0, "the clip was removed"

    assert run(app, ["decode", codes, out, "--format", "aac"]).exit_code == 2
    assert run(app, ["encode", str(tmp_path / "no.csv"), codes]).exit_code == 2


@pytest.mark.parametrize("model", ["audioldm2", "cvssp/audioldm2-music", "folder"])
@pytest.mark.parametrize("command", ["encode", "decode"])
def test_a_family_without_codes_is_refused_by_name(tmp_path: Path, command: str, model: str) -> None:
    if model == "folder":
        if find_spec("diffusers") is None:
            pytest.skip("the extra `diffusion` is not installed")
        from tests.fixtures.audioldm2_checkpoint import write_audioldm2

        model = str(write_audioldm2(tmp_path / "checkpoint"))
    (tmp_path / "m.csv").write_text("audio\na.wav\n")
    refused = CliRunner().invoke(app, [command, str(tmp_path / "m.csv"), str(tmp_path / "out"), "--model", model])
    assert refused.exit_code == 2
    assert f"--model {model} (family audioldm2) has no codes" in refused.stderr
    assert not (tmp_path / "out").exists()
