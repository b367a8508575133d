"""A dataset's CSV is read in the dialect of its last run: a file that grows keeps its keys."""

import json
from pathlib import Path

import pytest

from flows.cli.plan_command import plan as plan_command
from musicgen.errors import ManifestError
from musicgen.plan import read_shard
from musicgen.storage import open_store
from tests.fixtures.planning import make_shard
from tests.musicgen.plan.conftest import Submit

BACKSLASH = 'prompt,id\n"drone, 12\\"",a\n"bright arpeggio",b\nplain bass,c\n'


def make_run(tmp_path: Path, submit: Submit, text: str) -> list[str]:
    """Plan and make a run; return its prompts."""
    outcome = submit(text)
    assert outcome.plan is not None
    store = open_store(str(tmp_path / "out"))
    make_shard(store, outcome.plan, 0)
    return sorted(request.prompt for request in read_shard(store, outcome.plan, 0).requests)


def test_rows_before_a_change_of_dialect_are_read_again(tmp_path: Path, submit: Submit) -> None:
    text = "prompt,id\n" + "".join(f'"C:\\\\music {i}",{i}\n' for i in range(5000)) + '"12\\"",x\n'
    outcome = submit(text, dry_run=True)
    assert (outcome.new, outcome.invalid_count) == (5001, 0)
    assert outcome.csv == 'comma, quote ", escape \\, utf-8'
    assert make_run(tmp_path, submit, BACKSLASH) == ["bright arpeggio", 'drone, 12"', "plain bass"]


def test_a_file_that_grows_is_read_as_before(tmp_path: Path, submit: Submit) -> None:
    make_run(tmp_path, submit, BACKSLASH)
    grown = submit(BACKSLASH + '"C:\\\\x",d\n"only ""doubled"" now",e\n', dry_run=True)
    assert (grown.new, grown.made, grown.csv) == (2, 3, 'comma, quote ", escape \\, utf-8')
    with pytest.raises(ManifestError, match=r'last run read comma.*manifest.csv: {delimiter: ";"}'):
        submit("prompt;id\nx;y\n", dry_run=True)
    assert submit("prompt;id\nx;y\n", "manifest.csv.delimiter=;", dry_run=True).new == 1


def test_a_dataset_of_an_earlier_release_is_read_in_the_default(tmp_path: Path, submit: Submit) -> None:
    make_run(tmp_path, submit, "prompt,id\nfirst,1\n")
    for path in (tmp_path / "out" / "runs").glob("**/*.json"):
        document = json.loads(path.read_text())
        document.pop("csv", None)
        path.write_text(json.dumps(document))
    outcome = submit(BACKSLASH, dry_run=True)
    assert (outcome.new, outcome.invalid_count) == (2, 1)
    assert 'escape: "\\\\"' in outcome.invalid[0][1]
    assert submit(BACKSLASH, "manifest.csv.escape=\\", dry_run=True).new == 3


JSONL = '{"prompt": "from jsonl"}\n'


def test_a_run_without_csv_says_nothing_of_csv(tmp_path: Path, submit: Submit) -> None:
    make_run(tmp_path, submit, JSONL)
    assert submit("prompt;id\nx;1\n", dry_run=True).csv == 'semicolon, quote ", utf-8'
    make_run(tmp_path, submit, "prompt;id\nx;1\n")
    make_run(tmp_path, submit, JSONL.replace("from", "more from"))
    outcome = submit("prompt;id\nx;1\ny;2\nbroken\n", dry_run=True)  # a new dataset would not take it for this dialect
    assert (outcome.new, outcome.made, outcome.invalid_count) == (1, 1, 1)


def test_tabs_of_a_tsv_file_are_no_change_of_dialect(tmp_path: Path, submit: Submit) -> None:
    make_run(tmp_path, submit, "prompt,id\nfirst,1\n")
    (tmp_path / "m.tsv").write_text('prompt\tid\nx, y\t1\n"12\\""\t2\n')
    outcome = submit(tmp_path / "m.tsv", dry_run=True)
    assert (outcome.new, outcome.invalid_count, outcome.csv) == (2, 0, 'tab, quote ", escape \\, utf-8')


def test_partitions_stay_out_of_a_dataset_that_was_begun_without(tmp_path: Path, submit: Submit) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.csv").write_text("prompt,mood\na,sad\n")
    submit(tmp_path / "in")
    (tmp_path / "in" / "lang=en").mkdir()
    (tmp_path / "in" / "a.csv").rename(tmp_path / "in" / "lang=en" / "a.csv")
    outcome = submit(tmp_path / "in", dry_run=True)
    assert (outcome.left_out, outcome.carried, outcome.adopted) == (("lang",), ("mood",), True)
    outcome = submit(tmp_path / "in", output=str(tmp_path / "other"), dry_run=True)
    assert (outcome.left_out, outcome.carried) == ((), ("mood", "lang"))


def test_the_plan_command_prints_dialect_and_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m.csv").write_text("prompt;duration;mood\na;4;sad\n")
    plan_command(manifest=str(tmp_path / "m.csv"), output=str(tmp_path / "out"))
    lines = capsys.readouterr().out.splitlines()
    assert 'CSV is read with: semicolon, quote ", utf-8.' in lines
    assert "Columns that are read: prompt." in lines
    assert any("{duration_s: duration}" in line for line in lines)
