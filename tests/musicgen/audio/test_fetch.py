"""Melodies are fetched from allowed places only, within bounds, and as they were planned."""

import hashlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from musicgen.audio.fetch import fetch_audio, hash_audio
from musicgen.audio.sound_places import collect_roots, resolve_uri
from musicgen.errors import RowError, StoreDenied
from musicgen.storage import open_store


def refused(function, *args, **kwargs) -> str:
    with pytest.raises(RowError) as caught:
        function(*args, **kwargs)
    assert caught.value.error_class == "melody"
    return str(caught.value)


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("file:///etc/passwd", "outside the manifest's own folder"),
        ("/etc/passwd", "outside the manifest's own folder"),
        ("../secret.wav", "outside the manifest's own folder"),
        ("a/../../secret.wav", "outside the manifest's own folder"),
        ("link.wav", "outside the manifest's own folder"),
        ("folder/passwd", "outside the manifest's own folder"),
        ("file://elsewhere/secret.wav", "another host"),
        ("http://169.254.169.254/latest/meta-data", "http:// is not allowed"),
        ("https://user:hunter2@example.com/a.wav?token=hunter2", "https:// is not allowed"),
        ("HTTP://localhost/a.wav", "not allowed"),
        ("ftp://example.com/a.wav", "ftp:// is not allowed"),
        ("data://a", "not allowed"),
        ("s3://bucket", "names no object"),
        ("s3:///a.wav", "names no object"),
        ("http://[user:hunter2@::1/a.wav", "not a path"),
        ("https://example.com?token=hunter2", "not allowed"),
        ("", "not a path"),
        ("a\0b.wav", "not a path"),
    ],
)
def test_places_that_are_not_allowed(tmp_path: Path, uri: str, reason: str) -> None:
    root = tmp_path / "manifests"
    root.mkdir()
    (tmp_path / "secret.wav").write_bytes(b"secret")
    (root / "link.wav").symlink_to(tmp_path / "secret.wav")
    (root / "folder").symlink_to("/etc")
    message = refused(hash_audio, uri, roots=[root])
    assert reason in message
    assert "hunter2" not in message


def test_objects_are_taken_from_the_prefixes_that_a_job_names(tmp_path: Path) -> None:
    roots = collect_roots("s3://team/manifests", ["s3a://team/melodies/", str(tmp_path)])
    for uri in ("s3://team/melodies/a.wav", "s3://team/manifests/a.wav", "s3://team/melodies/b/c.wav"):
        assert resolve_uri(uri, roots=roots) == uri
    for uri in ("s3://team/melodies-of-others/a.wav", "s3://team/melodies/../a.wav", "s3://other/melodies/a.wav"):
        assert "outside manifest.melody_roots" in refused(hash_audio, uri, roots=roots)
    (tmp_path / "a.wav").write_bytes(b"x")
    assert resolve_uri("a.wav", roots=roots) == str(tmp_path / "a.wav")
    # Without such a prefix a manifest may name any object, as ever.
    for folder in ("s3://team/manifests", str(tmp_path)):
        assert resolve_uri("s3://other/a.wav", roots=collect_roots(folder, [str(tmp_path)])) == "s3://other/a.wav"


def test_the_message_does_not_reveal_whether_a_forbidden_file_exists(tmp_path: Path) -> None:
    (tmp_path / "there.wav").write_bytes(b"x")
    there, absent = (
        refused(hash_audio, f"{tmp_path}/{name}.wav", roots=[tmp_path / "m"]) for name in ("there", "absent")
    )
    assert there.replace("there.wav", "") == absent.replace("absent.wav", "")


def test_local_files_by_path_relative_path_and_uri(tmp_path: Path) -> None:
    path = tmp_path / "a b.wav"
    path.write_bytes(b"sound")
    expected = hashlib.sha256(b"sound").hexdigest()
    for uri in (str(path), path.as_uri(), "a b.wav", "./x/../a b.wav"):
        assert resolve_uri(uri, roots=[tmp_path]) == str(path)
        assert hash_audio(uri, roots=[tmp_path]).sha256 == expected
    with fetch_audio(str(path)) as file:
        assert (file.file.read(), file.sha256, file.size) == (b"sound", expected, 5)


def test_a_folder_beside_the_manifest_with_the_same_beginning_is_not_the_manifests(tmp_path: Path) -> None:
    (tmp_path / "data-private").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data-private" / "a.wav").write_bytes(b"x")
    assert "outside" in refused(hash_audio, str(tmp_path / "data-private" / "a.wav"), roots=[tmp_path / "data"])


def test_missing_empty_large_and_irregular_files(tmp_path: Path) -> None:
    (tmp_path / "empty.wav").touch()
    (tmp_path / "large.wav").write_bytes(bytes(2_000_001))
    os.mkfifo(tmp_path / "pipe.wav")
    for name, reason in {
        "absent.wav": "does not exist",
        "empty.wav": "is empty (0 bytes)",
        "large.wav": "larger than 2 MB",
        "pipe.wav": "not a regular file",
        ".": "cannot be read",
        "n" * 300: "cannot be read",
    }.items():
        assert reason in refused(hash_audio, name, roots=[tmp_path], max_bytes=2_000_000)
        assert reason in refused(fetch_audio, name, roots=[tmp_path], max_bytes=2_000_000)
    assert "not a regular file" in refused(hash_audio, "/dev/zero")


def test_a_file_that_changed_since_the_plan(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(b"one")
    planned = hash_audio(str(path)).sha256
    with fetch_audio(str(path), sha256=planned) as file:
        path.write_bytes(b"two")
        assert file.file.read() == b"one"  # a copy that nobody else can change
    assert "has changed since the run was planned" in refused(fetch_audio, str(path), sha256=planned)


def test_from_a_bucket(s3) -> None:
    store = open_store(s3.uri)
    data = os.urandom(9_000_000)  # more than one range
    store.write("melodies/a b.wav", data)
    store.write("melodies/empty.wav", b"")
    store.write("melodies/a?b#c %20.wav", b"odd")
    assert hash_audio(f"{s3.uri}/melodies/a?b#c %20.wav").size == 3
    assert "a?b#absent.wav does not exist" in refused(hash_audio, f"{s3.uri}/melodies/a?b#absent.wav")
    uri = store.join("melodies", "a b.wav")
    assert hash_audio(uri) == hash_audio(uri.replace("s3://", "S3://"))
    assert hash_audio(uri).sha256 == hashlib.sha256(data).hexdigest()
    with fetch_audio(uri, roots=[]) as file:
        assert file.file.read() == data
    assert "larger than 1 MB" in refused(hash_audio, uri, max_bytes=1_000_000)
    assert "empty" in refused(hash_audio, store.join("melodies", "empty.wav"))
    assert "does not exist" in refused(hash_audio, store.join("melodies", "absent.wav"))
    assert "cannot be read" in refused(hash_audio, f"{s3.uri}/../a.wav")
    assert "s3://there-is-none/a.wav does not exist" in refused(hash_audio, "s3://there-is-none/a.wav")


def test_wrong_credentials_are_reported_without_showing_them(s3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "wrong-key")
    with pytest.raises(StoreDenied, match="access") as caught:  # not the row's fault
        hash_audio(f"{s3.uri}/a.wav")
    assert "wrong-secret" not in str(caught.value)


def test_many_threads_fetch_at_once(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.wav" for i in range(8)]
    for path in paths:
        path.write_bytes(path.name.encode() * 100_000)
    wrong: list[str] = []

    def work(path: Path) -> None:
        for _ in range(10):
            with fetch_audio(str(path)) as file:
                if file.file.read() != path.name.encode() * 100_000:
                    wrong.append(path.name)

    threads = [threading.Thread(target=work, args=(path,)) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_planning_needs_no_torch() -> None:
    heavy = ("torch", "librosa", "soundfile", "numpy")
    code = f"import sys, musicgen.audio.fetch; print([name for name in {heavy} if name in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
