"""Everything a row may ask for, in one manifest in a bucket; hostile melodies among them."""

import hashlib
import json
from pathlib import Path

import pytest

import musicgen.dataset
from musicgen import MusicGen, Request
from musicgen.audio import encode_audio
from musicgen.storage import open_store
from tests.conftest import S3
from tests.flows.conftest import Cli, sounds
from tests.musicgen.conditioning import hostile
from tests.musicgen.conditioning.music import encoded, tune

pytestmark = pytest.mark.timeout(290, func_only=True)

# What the index tells of a row that decides its sound.
HEARD = (
    "prompt",
    "id",
    "melody",
    "continuation",
    "duration_s",
    "seed",
    "temperature",
    "top_k",
    "top_p",
    "guidance_scale",
)


@pytest.mark.slow
def test_all_controls_from_bucket_to_bucket_and_again_elsewhere(
    served_cli: Cli, s3: S3, melody_checkpoint: Path, monkeypatch
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
        {
            "id": "continued with a melody",
            "prompt": "guitar",
            "melody": "other.ogg",
            "continuation": "tune.wav",
            "duration_s": 3.5,
        },
        {"id": "takes", "prompt": "drums", "samples": 3},
        {"id": "nothing"},
        {"id": "unguided", "prompt": "bells", "guidance_scale": 1, "temperature": 0.8, "top_p": 0.9},
        {"id": "long", "prompt": "a journey", "melody": "tune.wav", "duration_s": 34},
    ]
    for name, (data, _) in hostile.files().items():
        store.write(f"in/{name}", data)
    bad = {name: (name, says) for name, (_, says) in hostile.files().items()}
    bad |= {uri: (uri, says) for uri, says in hostile.PLACES.items()}
    rows = good + [{"id": name, "prompt": "x", "melody": uri} for name, (uri, _) in bad.items()]
    store.write("in/rows.jsonl", "\n".join(map(json.dumps, rows)).encode())

    common = ["run", "--manifest", f"{s3.uri}/in/rows.jsonl", "--model", str(melody_checkpoint)]
    common += [
        "--set",
        "generation.duration_s=1",
        "--set",
        "generation.allow_unconditional=true",
        "--set",
        "cluster.cpus_per_actor=1",
    ]
    served_cli(*common, "--output", f"{s3.uri}/one", "--actors", "2", "--set", "cluster.shard_rows=3", expect=3)
    served_cli(*common, "--output", f"{s3.uri}/elsewhere/two", "--set", "cluster.shard_rows=100", expect=3)

    made = sounds(f"{s3.uri}/one")
    assert len(made) == 12
    assert sounds(f"{s3.uri}/elsewhere/two") == made
    for folder in ("one", "elsewhere/two"):
        served_cli("verify", f"{s3.uri}/{folder}", "--deep")
        failures = musicgen.dataset.open_dataset(f"{s3.uri}/{folder}").failures().to_pylist()
        assert sorted(row["id"] for row in failures) == sorted(bad)
        for row in failures:
            assert row["error_class"] == "melody"
            assert bad[row["id"]][1] in row["error"], row

    for name, value in s3.env.items():  # the API reads melodies from the bucket too
        monkeypatch.setenv(name, value)
    dataset = musicgen.dataset.open_dataset(f"{s3.uri}/one")
    model = MusicGen.from_pretrained(str(melody_checkpoint), slots=1)
    for row in dataset.to_arrow().to_pylist():
        (clip,) = model.generate([Request(**{name: row[name] for name in HEARD if row[name] is not None})])
        assert clip.duration_s == row["duration_s"]
        assert encode_audio(clip.audio, clip.sample_rate, "flac").pcm_sha256 == row["pcm_sha256"], row["id"]
        assert hashlib.sha256(dataset.store.read(row["audio"])).hexdigest() == row["audio_sha256"]
    model.close()
