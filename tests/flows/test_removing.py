"""`musicgen remove` and `musicgen gc` as a user types them."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli.main import app
from musicgen.dataset.gc_gate import put_gate
from musicgen.storage import open_store
from tests.musicgen.dataset.conftest import Maker

run = CliRunner().invoke


@pytest.fixture
def dataset(tmp_path: Path) -> Maker:
    make = Maker(open_store(str(tmp_path / "music")))
    make.shard()
    return make


def tell(expect: int, *args: str) -> dict:
    done = run(app, [*args, "--json"])
    assert done.exit_code == expect, done.output
    return json.loads(done.stdout)


def test_a_clip_is_removed_brought_back_and_deleted(dataset: Maker) -> None:
    uri = dataset.store.uri
    assert tell(0, "remove", uri, "id1", "--dry-run")["changed"]
    assert tell(0, "status", uri)["runs"][0]["removed"] == 0
    told = tell(3, "remove", uri, "id1", "nobody", "--where", "seed = 2")
    assert (len(told["changed"]), told["unknown"]) == (2, ["nobody"])
    assert (tell(0, "status", uri)["runs"][0]["made"], tell(0, "status", uri)["runs"][0]["hidden"]) == (1, 2)
    assert "removed" in run(app, ["status", uri]).stdout
    assert len(tell(0, "remove", uri, "id1", "--undo")["changed"]) == 1
    assert run(app, ["gc", uri]).stdout.startswith("1 removed clip would be deleted; until then `musicgen remove")
    done = run(app, ["gc", uri, "--delete"])
    assert (done.exit_code, done.stdout.splitlines()[0]) == (0, "1 removed clip deleted, 1 row taken out of the index")
    done = run(app, ["remove", uri, "--undo", told["changed"][1]])
    assert done.exit_code == 3
    assert done.stderr.endswith("`musicgen gc` has deleted it, so it cannot be brought back\n")
    assert run(app, ["verify", uri, "--deep"]).exit_code == 0
    assert run(app, ["gc", uri]).stdout == f"{uri}: nothing to delete.\n"


def test_a_damaged_index_stops_both_before_they_delete_anything(dataset: Maker) -> None:
    uri = dataset.store.uri
    dataset.shard(shard=1)
    tell(0, "remove", uri, "id1")
    dataset.store.write("index/r1-1/part-00001.parquet", b"PAR1 is not all that it takes")
    before = {info.path for info in dataset.store.list("audio")}
    remedy = f"musicgen repair {uri}"
    for args, named in ((["gc"], remedy), (["gc", "--delete"], remedy), (["remove", "id3"], "`musicgen verify`")):
        done = run(app, [args[0], uri, *args[1:]])
        assert (done.exit_code, done.stderr.count("\n")) == (2, 1), done.output
        assert named in done.stderr
    assert {info.path for info in dataset.store.list("audio")} == before


def test_mistakes_are_one_line(dataset: Maker) -> None:
    uri = dataset.store.uri

    def refuse(*args: str) -> str:
        done = run(app, list(args))
        assert done.exit_code == 2, done.output
        assert done.stderr.count("\n") == 1
        return done.stderr

    assert "nothing says which clips" in refuse("remove", uri)
    assert "is no condition on the clips" in refuse("remove", uri, "--where", "no such column")
    assert "give --delete too" in refuse("gc", uri, "--purge-prompt")
    assert "Neither gc nor repair is at work" in run(app, ["gc", uri, "--release"]).stdout
    put_gate(dataset.store)
    assert "since 20" in refuse("gc", uri, "--delete")
    assert run(app, ["gc", uri, "--release"]).stdout.startswith("Released the dataset from the gc of process ")
    assert run(app, ["gc", uri, "--delete"]).exit_code == 0
