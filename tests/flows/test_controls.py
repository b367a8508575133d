"""Everything a row may ask for, in one manifest in a bucket; hostile melodies among them."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

import musicgen.dataset
from musicgen import MusicGen, Request
from musicgen.audio import encode
from musicgen.storage import open_store
from tests.conftest import S3
from tests.flows.conftest import Cli, sounds
from tests.musicgen.conditioning.music import encoded, tune

pytestmark = pytest.mark.timeout(290, func_only=True)


def test_all_controls_from_bucket_to_bucket_and_again_elsewhere(
    served_cli: Cli, s3: S3, melody_checkpoint: Path, tmp_path: Path, monkeypatch
):
    store = open_store(s3.uri)
    store.write("in/tune.wav", encoded(tune(3.0)))
    store.write("in/other.ogg", encoded(tune(2.0, rate=44_100, notes=(50, 57, 62)), 44_100, "OGG"))
    good = [
        {"id": "plain", "prompt": "warm piano"},
        {"id": "melody", "prompt": "strings", "melody": f"{s3.uri}/in/tune.wav"},
        {"id": "relative", "prompt": "strings", "melody": "other.ogg", "duration_s": 2},
        {"id": "melody only", "melody": "tune.wav"},
        {"id": "continued", "prompt": "guitar", "continuation": "tune.wav", "duration_s": 4},
        {"id": "takes", "prompt": "drums", "samples": 3},
        {"id": "nothing"},
        {"id": "unguided", "prompt": "bells", "guidance_scale": 1, "temperature": 0.8, "top_p": 0.9},
        {"id": "long", "prompt": "a journey", "melody": "tune.wav", "duration_s": 33},
    ]
    hostile = {
        "text": b"RIFF is what I am not, really" * 50,
        "empty": b"",
        "cut": encoded(tune(2.0), kind="MP3")[:5000],
        "channels": encoded(np.zeros((19_200, 8), np.float32), 192_000),
        "silence for hours": encoded(np.zeros(8_000 * 3600, np.float32), 8_000, "FLAC"),  # an hour in a few kilobytes
    }
    for name, data in hostile.items():
        store.write(f"in/{name}.wav", data)
    bad = {**{name: f"{name}.wav" for name in hostile}, "passwd": "file:///etc/passwd", "up": "../../x.wav", "net": "http://10.0.0.1/a.wav"}
    rows = good + [{"id": name, "prompt": "x", "melody": uri} for name, uri in bad.items()]
    store.write("in/rows.jsonl", "\n".join(map(json.dumps, rows)).encode())

    common = ["run", "--manifest", f"{s3.uri}/in/rows.jsonl", "--model", str(melody_checkpoint)]
    common += ["--set", "generation.duration_s=1", "--set", "generation.allow_unconditional=true", "--set", "cluster.cpus_per_actor=1"]
    served_cli(*common, "--output", f"{s3.uri}/one", "--actors", "2", "--set", "cluster.shard_rows=3", expect=3)
    served_cli(*common, "--output", str(tmp_path / "two"), "--set", "cluster.shard_rows=100", expect=3)

    made = sounds(f"{s3.uri}/one")
    assert len(made) == 11
    assert sounds(str(tmp_path / "two")) == made
    served_cli("verify", f"{s3.uri}/one", "--deep")

    dataset = musicgen.dataset.open(f"{s3.uri}/one")
    refused = {row["id"]: (row["error_class"], row["error"]) for row in dataset.failures().to_pylist()}
    assert {name: kind for name, (kind, _) in refused.items()} == dict.fromkeys(bad, "melody")
    assert len({reason for _, reason in refused.values()}) == len(bad)

    for name, value in s3.env.items():  # the API reads melodies from the bucket too
        monkeypatch.setenv(name, value)
    index = {(row["id"], row["sample"]): row for row in dataset.to_arrow().to_pylist()}
    model = MusicGen.from_pretrained(str(melody_checkpoint), slots=1)
    for row in (index["melody", 0], index["continued", 0], index["takes", 2], index["nothing", 0], index["unguided", 0]):
        fields = ("prompt", "id", "sample", "melody", "continuation", "duration_s", "temperature", "top_k", "top_p", "guidance_scale")
        asked = {name: row[name] for name in fields if row[name] is not None} | {"sample": 0, "seed": row["seed"]}
        (clip,) = model.generate([Request(**asked)])
        assert encode(clip.audio, clip.sample_rate, "flac").pcm_sha256 == row["pcm_sha256"], row["id"]
        assert hashlib.sha256(dataset.store.read(row["audio"])).hexdigest() == row["audio_sha256"]
    model.close()
