"""A store that cannot be used when a melody is read is never the fault of the row."""

import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

from musicgen.audio.fetch import fetch_audio, hash_audio
from musicgen.conditioning.conditioner import RequestConditioner
from musicgen.errors import RowError, StoreDenied, StoreError, StoreFull, StoreUnavailable
from musicgen.job import Job
from musicgen.manifest import audio_hashes
from musicgen.model import load_model
from musicgen.plan import make_plan
from musicgen.request import Request
from musicgen.storage import open_store, patience
from tests.faults.fault import Fault
from tests.faults.proxy import FaultProxy
from tests.fixtures.planning import MELODY, PlannedCheckpoint


@pytest.fixture
def melody(proxy: FaultProxy, s3, tmp_path: Path) -> str:
    """The URI of a second of a tone in a bucket."""
    file = tmp_path / "a.wav"
    soundfile.write(file, np.sin(np.arange(32_000) / 10) / 2, 32_000)
    open_store(s3.uri).write("melodies/a.wav", file)
    return f"{s3.uri}/melodies/a.wav"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests and patience that end within a second."""
    monkeypatch.setenv("MUSICGEN_STORE_TIMEOUT_S", "0.6")
    monkeypatch.setattr(patience, "FIRST_PAUSE_S", 0.05)
    monkeypatch.setattr(audio_hashes, "SHORT_PATIENCE_S", 0.5)
    monkeypatch.setattr(audio_hashes, "_DENIED_PATIENCE_S", 0.1)


def plan(melody: str, folder: Path, name: str):
    """Plan two rows, of which one has the melody; returns the outcome."""
    manifest = folder / "manifest.csv"
    manifest.write_text(f"prompt,melody\npiano,\nstrings,{melody}\n")
    output = folder / name
    job = Job.model_validate(
        {"manifest": {"uri": str(manifest)}, "model": {"name": "embedded"}, "output": {"uri": str(output)}}
    )
    checkpoint = PlannedCheckpoint(MELODY)
    return make_plan(job, checkpoint, open_store(str(output)))


@pytest.mark.parametrize(
    "fault",
    [
        Fault("status", "melodies", count=5),
        Fault("status", "melodies", count=4, status=403, code="AccessDenied"),
        Fault("cut_reply", "GET .*melodies", count=2),
        Fault("reset", "melodies", count=2),
        Fault("status", "melodies", seconds=3),  # longer than a request is tried
    ],
    ids=lambda fault: f"{fault.mode} {fault.status} {fault.seconds}",
)
def test_a_hiccup_while_planning_changes_nothing(
    proxy: FaultProxy,
    melody: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: Fault,
):
    monkeypatch.setenv("MUSICGEN_CACHE", str(tmp_path / "cache"))
    calm = plan(melody, tmp_path, "calm")
    monkeypatch.setenv("MUSICGEN_CACHE", str(tmp_path / "another cache"))
    if fault.seconds:
        monkeypatch.setenv("MUSICGEN_STORE_TIMEOUT_S", "0.6")
    proxy.add(fault)
    troubled = plan(melody, tmp_path, "troubled")
    assert fault.hits > 1
    assert troubled.invalid_count == 0
    assert troubled.plan.run == calm.plan.run


@pytest.mark.parametrize(
    ("status", "code", "kind"), [(503, "SlowDown", StoreUnavailable), (403, "AccessDenied", StoreDenied)]
)
def test_a_store_that_stays_away_stops_planning(
    proxy: FaultProxy,
    melody: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    quick: None,
    status: int,
    code: str,
    kind: type[StoreError],
):
    monkeypatch.setenv("MUSICGEN_CACHE", str(tmp_path / "cache"))
    if kind is StoreDenied:  # which is not tried for long, but connects anew each time
        monkeypatch.delenv("MUSICGEN_STORE_TIMEOUT_S")
    proxy.add(Fault("status", "melodies", status=status, code=code))
    with pytest.raises(kind, match=r"manifest.csv:3: the melody cannot be read: s3://") as caught:
        plan(melody, tmp_path, "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_what_is_wrong_with_the_file_is_the_rows_fault(proxy: FaultProxy, melody: str):
    for uri, reason in ((f"{melody}.none", "does not exist"), ("s3://no-such-bucket/a.wav", "does not exist")):
        with pytest.raises(RowError, match=reason):
            hash_audio(uri)


def test_a_full_disk_of_the_copy_is_not_the_rows_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "a.wav"
    file.write_bytes(b"x")
    monkeypatch.setattr(
        "musicgen.audio.fetch.tempfile.SpooledTemporaryFile",
        lambda max_size: open("/dev/full", "wb", 0),  # noqa: SIM115
    )
    with pytest.raises(StoreFull, match="No space left"):
        fetch_audio(str(file))


def test_an_actor_waits_for_the_store_of_a_melody(
    proxy: FaultProxy, melody: str, melody_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, quick: None
):
    request = Request("strings", melody=melody, melody_sha256=hash_audio(melody).sha256, duration_s=1.0)
    model = load_model(melody_checkpoint, "cpu", "float32")
    conditioner = RequestConditioner(model, store_patience_s=300)
    proxy.stop_listening()
    timer = threading.Timer(1.5, proxy.listen)  # longer than a request is tried
    timer.start()
    try:
        (prepared,) = conditioner.prepare([request])
    finally:
        timer.join()
    assert not isinstance(prepared, Exception)
    proxy.add(Fault("status"))
    impatient = RequestConditioner(model, store_patience_s=0.1)
    (error,) = impatient.prepare([request])
    assert isinstance(error, StoreUnavailable)
    for each in (conditioner, impatient):
        each.close()
