"""`musicgen encode` and `decode` as a user types them."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import soundfile
from typer.testing import CliRunner

from flows.cli.main import app


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

    assert run(app, ["decode", codes, out, "--format", "aac"]).exit_code == 2
    assert run(app, ["encode", str(tmp_path / "no.csv"), codes]).exit_code == 2
