"""Melodies and continuations of rows: allowed files are hashed once, the others have a reason."""

import hashlib
from pathlib import Path

import pytest

from musicgen.audio import fetch
from musicgen.errors import RowError
from musicgen.manifest import audio_hashes as audio_hashes_module
from musicgen.manifest.audio_hashes import AudioHashes, AudioReference, HashedAudio


def look_up(
    uri: str, folder: Path | str, roots: tuple[str, ...] = (), cache: Path | None = None
) -> HashedAudio | RowError:
    with AudioHashes(roots, cache) as audio_hashes:
        reference = AudioReference(uri, "melody", str(folder))
        return audio_hashes.look_up([reference])[reference]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    manifest = tmp_path / "manifest"
    (manifest / "tunes").mkdir(parents=True)
    (manifest / "tunes" / "a.wav").write_bytes(b"sound")
    (manifest / "empty.wav").write_bytes(b"")
    (tmp_path / "secret.wav").write_bytes(b"outside")
    (manifest / "link.wav").symlink_to(tmp_path / "secret.wav")
    return manifest


def test_a_melody_beside_the_manifest(folder: Path) -> None:
    expected = HashedAudio(f"{folder}/tunes/a.wav", hashlib.sha256(b"sound").hexdigest())
    for uri in ("tunes/a.wav", "./tunes/../tunes/a.wav", f"{folder}/tunes/a.wav", f"file://{folder}/tunes/a.wav"):
        assert look_up(uri, folder) == expected


HOSTILE = {
    "above the folder": "../secret.wav",
    "file URI": "file:///etc/passwd",
    "absolute": "/etc/passwd",
    "link out": "link.wav",
    "private address": "http://169.254.169.254/x.wav",
    "web": "https://example.org/a.wav",
    "empty": "empty.wav",
    "a folder": "tunes",
    "ftp": "ftp://x/y.wav",
    "another host": "file://host/x.wav",
    "no bucket": "s3://",
    "NUL": "\0",
    "long": "x" * 5000,
}


@pytest.mark.parametrize("uri", HOSTILE.values(), ids=HOSTILE)
def test_hostile_uris_are_refused_in_one_line(folder: Path, uri: str) -> None:
    outcome = look_up(uri, folder)
    assert isinstance(outcome, RowError)
    assert outcome.error_class == "melody"
    assert "\n" not in str(outcome)


def test_a_melody_that_is_not_there_makes_the_row_invalid(folder: Path) -> None:
    outcome = look_up("none.wav", folder)
    assert isinstance(outcome, RowError)
    assert (outcome.error_class, "none.wav does not exist" in str(outcome)) == ("invalid", True)
    assert len(str(outcome)) < 600


def test_roots_allow_more_folders(folder: Path, tmp_path: Path) -> None:
    outside = f"{tmp_path}/secret.wav"
    assert isinstance(look_up(outside, folder), RowError)
    assert isinstance(look_up(outside, folder, (str(tmp_path),)), HashedAudio)


def test_a_file_is_read_once_per_plan_and_known_again_in_the_next(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []
    monkeypatch.setattr(
        audio_hashes_module, "hash_audio", lambda uri, **options: reads.append(uri) or fetch.hash_audio(uri, **options)
    )
    references = [AudioReference("tunes/a.wav", "melody", str(folder))] * 100
    for _ in range(2):
        with AudioHashes((), tmp_path / "cache") as audio_hashes:
            for _ in range(3):
                audio_hashes.look_up(references)
    assert len(reads) == 1
    (folder / "tunes" / "a.wav").write_bytes(b"other")
    outcome = look_up("tunes/a.wav", folder, cache=tmp_path / "cache")
    assert isinstance(outcome, HashedAudio)
    assert outcome.sha256 == hashlib.sha256(b"other").hexdigest()


def test_a_cache_that_cannot_be_used_is_done_without(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    assert isinstance(look_up("tunes/a.wav", folder, cache=tmp_path / "file"), HashedAudio)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "conditions.sqlite").write_bytes(b"not a database" * 100)
    assert isinstance(look_up("tunes/a.wav", folder, cache=tmp_path / "broken"), HashedAudio)


def test_melodies_in_a_bucket(folder: Path, tmp_path: Path, s3, monkeypatch: pytest.MonkeyPatch) -> None:
    from musicgen.storage import open_store

    open_store(s3.uri).write("in/a.wav", b"sound")
    sha256 = hashlib.sha256(b"sound").hexdigest()
    expected = HashedAudio(f"{s3.uri}/in/a.wav", sha256)
    reads: list[str] = []
    monkeypatch.setattr(
        audio_hashes_module, "hash_audio", lambda uri, **options: reads.append(uri) or fetch.hash_audio(uri, **options)
    )
    cache = tmp_path / "cache"
    assert look_up(f"{s3.uri}/in/a.wav", folder, cache=cache) == expected
    assert look_up("a.wav", f"{s3.uri}/in", cache=cache) == expected  # relative to a manifest in the bucket
    assert len(reads) == 1
    for uri in (f"{s3.uri}/in/none.wav", "../in/a.wav", f"{folder}/tunes/a.wav", "s3://no-such-bucket-here/a.wav"):
        assert isinstance(look_up(uri, f"{s3.uri}/in"), RowError)
