"""The job file: what it accepts, and one clear line for each mistake."""

from pathlib import Path

import pytest

from musicgen.errors import JobError
from musicgen.job import Job
from musicgen.job_sections import AudioSettings

SECRET = "hunter2-do-not-print"


def write_job_file(tmp_path: Path, text: str) -> str:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    return str(path)


def expect_error(path: str | None, overrides: list[str] | None = None, **flags: object) -> str:
    with pytest.raises(JobError) as caught:
        Job.load(path, overrides or [], **flags)
    text = str(caught.value)
    assert "\n" not in text
    assert SECRET not in text
    return text


def make_job(*overrides: str) -> Job:
    return Job.load(None, list(overrides), manifest="s3://b/m.csv", output="s3://b/out")


def test_flag_beats_override_beats_file(tmp_path: Path) -> None:
    path = write_job_file(
        tmp_path, "manifest: {uri: s3://b/file.csv, limit: 1}\ncluster: {actors: 1}\noutput: {uri: s3://b/out}\n"
    )
    job = Job.load(path, ["manifest.limit=2", "cluster.actors=2"], actors=3, model=None)
    assert (job.manifest.uri, job.manifest.limit, job.cluster.actors) == ("s3://b/file.csv", 2, 3)
    assert job.model.name == "embedded"


def test_variables_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUCKET", "music")
    monkeypatch.setenv("SECONDS", "8")
    text = "manifest: {uri: 's3://${BUCKET}/m$$.csv'}\ngeneration: {duration_s: '${SECONDS}'}\noutput: {uri: out}\n"
    job = Job.load(write_job_file(tmp_path, text))
    assert job.manifest.uri == "s3://music/m$.csv"
    assert job.generation.duration_s == 8


def test_local_paths_are_relative_to_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    job = Job.load(None, ["manifest.melody_roots=[tunes]"], manifest="in/*.csv", output="out", model="./weights")
    assert job.manifest.uri == f"{tmp_path}/in/*.csv"
    assert job.output.uri == f"{tmp_path}/out"
    assert job.manifest.melody_roots == (f"{tmp_path}/tunes",)
    assert job.model.name == f"{tmp_path}/weights"
    assert (
        Job.load(None, manifest="a.csv", output="o", model="facebook/musicgen-small").model.name
        == "facebook/musicgen-small"
    )


def test_actors_may_be_a_range() -> None:
    assert make_job("cluster.actors=3").cluster.resolve_actors(auto=8) == (3, 3)
    assert make_job().cluster.resolve_actors(auto=8) == (8, 8)
    ranged = make_job("cluster.actors={min: 2, max: 5}").cluster
    assert ranged.resolve_actors(auto=8) == (2, 5)


def test_a_job_goes_through_json_and_back() -> None:
    job = make_job("cluster.actors={max: 5}", "cluster.slots=8", "audio.loudness_lufs=-14")
    assert Job.model_validate(job.model_dump(mode="json")) == job


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        (
            "manifest: {uri: a}\ngeneration:\n  durations_s: 3\n",
            3,
            "unknown key `generation.durations_s`; did you mean `generation.duration_s`?",
        ),
        ("manifest: {uri: a}\nduration_s: 3\n", 2, "unknown key `duration_s`; did you mean `generation.duration_s`?"),
        ("manifest: {uri: a}\n\ngenerations: {}\n", 3, "did you mean `generation`?"),
        (
            "cluster:\n  actors: {minimum: 1, max: 2}\n",
            2,
            "unknown key `cluster.actors.minimum`; did you mean `cluster.actors.min`?",
        ),
        (
            "manifest: {uri: a}\ngeneration:\n  duration_s: -3\n",
            3,
            "`generation.duration_s` must be more than 0 (it is -3)",
        ),
        ("manifest: {uri: a}\ngeneration:\n  duration_s: .nan\n", 3, "finite"),
        ("manifest: {uri: a}\ngeneration:\n  duration_s: long\n", 3, "must be a number (it is long)"),
        ("manifest: {uri: a}\ngeneration:\n  top_k: 2.5\n", 3, "whole number"),
        ("manifest: {uri: a}\ngeneration: {samples: true}\n", 2, "true or false"),
        ("manifest: {uri: a}\naudio:\n  format: aac\n", 3, "'flac', 'wav', 'ogg' or 'mp3' (it is aac)"),
        ("manifest: {uri: a}\ncluster:\n  actors: 0\n", 3, "at least 1"),
        ("manifest: {uri: a}\ncluster:\n  actors: {min: 4, max: 2}\n", 3, "min 4, more than max 2"),
        ("manifest: {uri: a}\ncluster: [1]\n", 2, "section"),
        ("manifest: {uri: a}\nmodel: {device: gpu}\n", 2, "`model.device`"),
        ("manifest:\n  uri: a\n  columns: {promt: caption}\n", 3, "did you mean `prompt`?"),
        ("manifest:\n  uri: a\n  columns: {prompt: c, id: c}\n", 3, "more than one field"),
        ("manifest:\n  uri: ''\n", 2, "`manifest.uri`"),
        ("manifest: {uri: a}\nmanifest: {uri: b}\n", 2, "given twice"),
        ("manifest: {uri: a\n", 2, "not valid YAML"),
        ("generation:\n\tduration_s: 3\n", 2, "not valid YAML"),
        ("manifest: {uri: a}\noutput:\n  secret_key: hunter2-do-not-print\n", 3, "environment"),
    ],
)
def test_mistakes_in_the_file_are_named_with_their_line(tmp_path: Path, text: str, line: int, expected: str) -> None:
    path = write_job_file(tmp_path, text)
    message = expect_error(path, [] if "output:" in text else ["output.uri=out"])
    assert message.startswith(f"{path}:{line}: ")
    assert expected in message


def test_mistakes_elsewhere_are_named_with_their_flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOBODY_SETS_THIS", raising=False)
    assert expect_error(None, output="out").startswith("the job names no manifest: give --manifest URI")
    assert "names no output: give --output URI" in expect_error(None, manifest="a")
    assert expect_error(None, manifest="a", output="b", limit=0).startswith(
        "--limit: `manifest.limit` must be at least 1"
    )
    assert "section.key=value" in expect_error(None, ["generation.duration_s"], manifest="a", output="b")
    assert "NOBODY_SETS_THIS is not set" in expect_error(None, manifest="s3://${NOBODY_SETS_THIS}/a", output="b")
    assert "no such job file" in expect_error(str(tmp_path / "none.yaml"))
    assert "cannot be read" in expect_error(str(tmp_path))
    assert "holds a list" in expect_error(write_job_file(tmp_path, "- a\n- b\n"))
    assert "alias" in expect_error(write_job_file(tmp_path, "manifest: &a {uri: *a}\n"))
    assert "alias" in expect_error(write_job_file(tmp_path, "manifest: {uri: &a [*a]}\noutput: {uri: b}\n"))
    (tmp_path / "job.yaml").write_bytes(b"\xff\xfe")
    assert "UTF-8" in expect_error(str(tmp_path / "job.yaml"))


def test_two_mistakes_are_two_phrases_of_one_line() -> None:
    message = expect_error(None, ["generation.top_p=2", "cluster.attempts=0"], manifest="a", output="b")
    assert "`generation.top_p` must be at most 1" in message
    assert "`cluster.attempts` must be at least 1" in message


@pytest.mark.parametrize(
    "uri",
    [
        f"s3://user:{SECRET}@bucket/x",
        f"s3://{SECRET}@bucket/x",
        f"s3://bucket/x?X-Amz-Signature={SECRET}",
        f"s3://b/x?aws_secret={SECRET}&a=1",
    ],
)
@pytest.mark.parametrize("key", ["manifest.uri", "output.uri", "model.name", "cluster.address"])
def test_credentials_in_a_uri_are_refused_and_not_repeated(key: str, uri: str) -> None:
    values = {"manifest.uri": "a", "output.uri": "b", key: uri}
    assert "holds credentials" in expect_error(None, [f"{name}={value}" for name, value in values.items()])


def test_a_glob_is_no_secret() -> None:
    assert Job.load(None, manifest="s3://bucket/part-?.csv", output="out").manifest.uri == "s3://bucket/part-?.csv"


def test_values_are_shown_before_variables_are_put_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRIVATE", SECRET)
    assert "${PRIVATE}" in expect_error(None, ["generation.duration_s=${PRIVATE}"], manifest="a", output="b")
    expect_error(
        None,
        ["audio.format=${PRIVATE}", "cluster.actors=${PRIVATE}", "model.device=${PRIVATE}"],
        manifest="a",
        output="b",
    )


def test_only_the_encoding_enters_a_key() -> None:
    assert AudioSettings(layout="parquet", codes=True).canonical() == {}
    assert AudioSettings(format="mp3", loudness_lufs=-14.0).canonical() == {"format": "mp3", "loudness_lufs": -14}
