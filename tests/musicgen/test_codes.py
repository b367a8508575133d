"""A manifest of audio is encoded to codes, and codes are decoded as the codec does."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from musicgen.audio import decode_audio as decode_file
from musicgen.codes import codes_file as table
from musicgen.codes import decode_codes, encode_manifest
from musicgen.errors import ManifestError
from musicgen.model import load_model
from musicgen.storage import open_store
from tests.musicgen.conditioning.music import decode_bytes, encoded, tune


@pytest.fixture(scope="module")
def codec(text_checkpoint: Path):
    return load_model(text_checkpoint, "cpu", "float32").codec


SOUNDS = {"a.wav": tune(1.0), "b.flac": tune(0.7, notes=(50, 52)), "c.ogg": tune(0.53)}


def files() -> dict[str, bytes]:
    return {name: encoded(audio, kind=name.rpartition(".")[2].upper()) for name, audio in SOUNDS.items()}


def read(path: Path | str) -> list[dict]:
    return pq.read_table(path).to_pylist()


def test_encode_and_decode_through_a_bucket(codec, s3) -> None:
    store = open_store(s3.uri)
    for name, data in files().items():
        store.write(f"in/{name}", data)
    rows = [{"file": name, "id": f"x/{name}", "prompt": "a tune", "bpm": 120} for name in SOUNDS]
    store.write("in/manifest.jsonl", "\n".join(map(json.dumps, rows)).encode())
    done = encode_manifest(store.join("in", "manifest.jsonl"), store.join("codes.parquet"), codec, column="file")
    assert (done.made, done.failed) == (3, [])
    with store.open("codes.parquet") as file:
        found = pq.read_table(file).to_pylist()
    assert [row["id"] for row in found] == ["x/a.wav", "x/b.flac", "x/c.ogg"]
    for row, data in zip(found, files().values(), strict=True):
        assert np.array_equal(row["codes"], codec.encode(decode_bytes(data)))
        assert row["frames"] == len(row["codes"][0])
        assert row["prompt"] == "a tune"

    done = decode_codes(store.join("codes.parquet"), store.join("out"), codec)
    assert (done.made, done.failed) == (3, [])
    with store.open("out/files.parquet") as file:
        listed = pq.read_table(file).to_pylist()
    for row, out in zip(found, listed, strict=True):
        audio, rate = decode_file(store.read(f"out/{out['audio']}"))
        assert rate == 32_000
        assert np.abs(audio - np.clip(codec.decode(np.array(row["codes"])), -1, 1)).max() < 1e-4
        assert out["duration_s"] == pytest.approx(row["frames"] / 50)


def test_bad_files_are_rows_with_an_error(codec, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name, data in files().items():
        (tmp_path / "in" / name).write_bytes(data)
    (tmp_path / "secret.wav").write_bytes(files()["a.wav"])
    (tmp_path / "in" / "text.wav").write_text("la la")
    (tmp_path / "in" / "m.csv").write_text(
        'audio\na.wav\ntext.wav\n../secret.wav\nhttp://127.0.0.1/a.wav\n""\nabsent.wav\nc.ogg\n'
    )
    done = encode_manifest(str(tmp_path / "in" / "m.csv"), str(tmp_path / "codes.parquet"), codec)
    assert done.made == 2
    assert [source.rpartition(":")[2] for source, _ in done.failed] == ["3", "4", "5", "6", "7"]
    reasons = ["not a wav", "outside", "not allowed", "no audio", "does not exist"]
    assert all(word in reason for word, (_, reason) in zip(reasons, done.failed, strict=True))
    rows = read(tmp_path / "codes.parquet")
    assert [row["codes"] is None for row in rows] == [False, True, True, True, True, True, False]
    assert [row["error"] is None for row in rows] == [True, False, False, False, False, False, True]
    # Rows without codes are passed over on the way back.
    assert decode_codes(str(tmp_path / "codes.parquet"), str(tmp_path / "out"), codec, format="wav").made == 2


def test_rows_are_written_group_by_group(codec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "_GROUP_CODES", 300)
    for name, data in files().items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "m.csv").write_text("audio\n" + "a.wav\nb.flac\n" * 3)
    encode_manifest(str(tmp_path / "m.csv"), str(tmp_path / "codes.parquet"), codec)
    parquet = pq.ParquetFile(tmp_path / "codes.parquet")
    assert (parquet.num_row_groups, parquet.metadata.num_rows) == (3, 6)


def test_files_that_cannot_be_decoded(codec, stereo_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no Parquet file"):
        decode_codes(str(tmp_path), str(tmp_path / "out"), codec)
    pq.write_table(pa.table({"prompt": ["x"]}), tmp_path / "none.parquet")
    with pytest.raises(ManifestError, match="no column `codes`"):
        decode_codes(str(tmp_path / "none.parquet"), str(tmp_path / "out"), codec)
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(ManifestError, match="cannot be read as Parquet"):
        decode_codes(str(tmp_path / "torn.parquet"), str(tmp_path / "out"), codec)
    (tmp_path / "a.wav").write_bytes(files()["a.wav"])
    (tmp_path / "m.csv").write_text("audio\na.wav\n")
    with pytest.raises(ManifestError, match="column"):
        encode_manifest(str(tmp_path / "m.csv"), str(tmp_path / "codes.parquet"), codec, column="sound")
    assert not (tmp_path / "codes.parquet").exists()
    encode_manifest(str(tmp_path / "m.csv"), str(tmp_path / "codes.parquet"), codec)
    stereo = load_model(stereo_checkpoint, "cpu", "float32").codec
    with pytest.raises(ManifestError, match="channels 1, this model's 2"):
        decode_codes(str(tmp_path / "codes.parquet"), str(tmp_path / "out"), stereo)
    # An index says nothing of its codec: codes of another shape are failures of their rows.
    rows = [
        {"key": "k1", "codes": [[1, 2, 3]] * 4},
        {"key": "k2", "codes": [[1, 2], [3]]},
        {"key": "k3", "codes": [[999] * 3] * 4},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "index.parquet")
    done = decode_codes(str(tmp_path / "index.parquet"), str(tmp_path / "out"), codec)
    assert (done.made, len(done.failed)) == (1, 2)
    assert (tmp_path / "out" / "k1.flac").exists()


@pytest.mark.parametrize(
    "bad",
    [
        pa.array([[[70_000] * 3] * 4], pa.list_(pa.list_(pa.int32()))),
        pa.array([[[2**64 - 1] * 3] * 4], pa.list_(pa.list_(pa.uint64()))),
        pa.array([[[-1] * 3] * 4], pa.list_(pa.list_(pa.int64()))),
        pa.array([[[1.5] * 3] * 4], pa.list_(pa.list_(pa.float64()))),
        pa.array([[[1, None, 2]] * 4], pa.list_(pa.list_(pa.int16()))),
        pa.array([[[1, 2], None]], pa.list_(pa.list_(pa.int16()))),
        pa.array([[[]] * 4], pa.list_(pa.list_(pa.int16()))),
        pa.array([7], pa.int64()),
        pa.array(["la la"], pa.string()),
    ],
)
def test_invalid_codes_fail_their_row(codec, tmp_path: Path, bad: pa.Array) -> None:
    good = pa.array([[[1, 2, 3]] * 4], pa.list_(pa.list_(pa.int16())))
    for name, codes in (("a", bad), ("b", good)):
        pq.write_table(pa.table({"id": [name], "codes": codes}), tmp_path / f"{name}.parquet")
    done = decode_codes(str(tmp_path), str(tmp_path / "out"), codec)
    assert done.made == 1
    ((source, reason),) = done.failed
    assert source.endswith("a.parquet row 1")
    assert reason.startswith("codes")


def test_names_that_collide_or_are_not_allowed(codec, tmp_path: Path) -> None:
    names = ["a", "A", "a", "../../etc/passwd", "", ".hidden", "ü" * 300, None]
    rows = [{"id": name, "codes": [[1, 2]] * 4} for name in names]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "codes.parquet")
    assert decode_codes(str(tmp_path / "codes.parquet"), str(tmp_path / "out"), codec).made == len(names)
    assert len(list((tmp_path / "out").glob("*.flac"))) == len(names)
    assert [row["id"] for row in read(tmp_path / "out" / "files.parquet")] == names


def test_the_dialect_of_a_csv_file_is_found_out(codec, tmp_path: Path) -> None:
    for name, data in files().items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "m.csv").write_text('audio,prompt\na.wav,"a \\"blue\\" tune"\nb.flac,plain\nc.ogg,"two, \\"three\\""\n')
    done = encode_manifest(str(tmp_path / "m.csv"), str(tmp_path / "codes.parquet"), codec)
    assert (done.made, done.failed) == (3, [])
    assert [row["prompt"] for row in read(tmp_path / "codes.parquet")] == ['a "blue" tune', "plain", 'two, "three"']
