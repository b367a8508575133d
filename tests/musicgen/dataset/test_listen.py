"""The listening page: self-contained, true to the dataset, and with all text of the manifest escaped."""

import hashlib
import re
import shutil
import subprocess
from dataclasses import replace
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

import musicgen.dataset
from musicgen.audio import decode_audio
from musicgen.dataset.clip_selection import select_clips
from musicgen.dataset.listen import write_page
from musicgen.dataset.reader import read_audio_bytes
from musicgen.dataset.verification import verify_dataset
from musicgen.errors import JobError, RowError, StoreError
from musicgen.storage.parquet_reader import ParquetReader

from .conftest import Maker, clip_of, plan_of, shard_of

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOSTILE = """</h2><script>document.title='x'</script>" onerror="alert(1) & 'quotes' \u202e \u263a"""
# Appended to the page under test: waits until each player knows its clip's length, and each picture is there.
ASK = """<script>
const heard = [...document.querySelectorAll("audio")].map(a => new Promise(done => {
  const tell = () => done(a.error ? "error" : a.duration.toFixed(3));
  a.onloadedmetadata = a.onerror = tell; if (a.readyState || a.error) tell();
}));
const seen = [...document.images].map(i => {
  i.loading = "eager";
  return i.decode().then(() => i.naturalWidth, () => "error");
});
Promise.all([...heard, ...seen]).then(all => {
  document.body.insertAdjacentHTML("beforeend", `<p id="answer">${all.join(" ")}</p>`);
});
</script>"""


class Tags(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def source(page: Path, attrs: dict[str, str | None]) -> Path:
    """The file that a `src` names, as a browser would find it from file://."""
    link = attrs["src"] or ""
    assert not re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*:|/", link), link
    return page.parent / unquote(link)


@pytest.mark.parametrize("layout", ["files", "parquet", "webdataset"])
def test_each_clip_has_its_sound_its_picture_and_its_facts(make: Maker, layout: str):
    make = make.settings(layout=layout)
    make.shard(failing={1: RowError("generation", "no")})
    make.shard(shard=1)
    before = [info.path for info in make.store.list()]
    wrote = write_page(musicgen.dataset.open_dataset(make.store.uri))
    page, rows = Path(wrote.path), shard_of("r1-1", 0)
    assert (page, wrote.clips, wrote.dataset_clips, wrote.faults) == (Path(make.store.join("listen.html")), 5, 5, 0)
    tags = Tags(page)
    requests = [rows.requests[0], rows.requests[2], *shard_of("r1-1", 1).requests]
    for request, player, picture in zip(requests, tags.of("audio"), tags.of("img"), strict=True):
        assert np.abs(decode_audio(source(page, player).read_bytes())[0] - clip_of(request).audio).max() < 1e-4
        assert source(page, picture).read_bytes().startswith(b"\x89PNG")
        assert request.prompt in tags.text
        assert request.prompt in player["aria-label"]
        assert request.prompt in picture["alt"]
    assert tags.text.count("guidance") == tags.text.count("seed") == 5
    assert "melody" not in tags.text
    assert not tags.of("script")
    assert not tags.of("link")
    added = {info.path.split("/")[0] for info in make.store.list()} - {path.split("/")[0] for path in before}
    assert added == {"listen.html", "spectrograms"} | (set() if layout == "files" else {"clips"})
    report = verify_dataset(musicgen.dataset.open_dataset(make.store.uri), deep=True)
    assert (report.faults, report.orphans) == ([], 0)


def test_text_of_a_manifest_is_escaped(make: Maker):
    make = make.settings(layout="parquet")  # where a clip's key is not a path already
    rows = shard_of("r1-1", 0, 1)
    request = replace(rows.requests[0], prompt=HOSTILE, id="<b>id</b>", melody="tunes/<i>&amp;.wav")
    make.shard(rows_of=replace(rows, requests=[request], keys=["../<x>%41?#"]))
    page = Path(
        write_page(musicgen.dataset.open_dataset(make.store.uri), str(Path(make.store.uri).parent / "a page")).path
    )
    tags = Tags(page)
    assert HOSTILE in tags.text
    assert "<b>id</b>" in tags.text
    assert "melodytunes/<i>&amp;.wav" in tags.text
    assert not tags.of("script")
    assert not tags.of("b")
    assert not any(name.startswith("on") for _, attrs in tags.tags for name in attrs)
    assert [source(page, attrs).is_file() for attrs in tags.of("audio") + tags.of("img")] == [True, True]
    assert {p.name for p in page.parent.parent.iterdir()} == {"dataset", "a page"}  # nothing has left its folder


def test_the_page_shows_the_first_clips_and_says_so(make: Maker):
    make.shard()
    make.shard(shard=1)
    wrote = write_page(musicgen.dataset.open_dataset(make.store.uri), clips=4)
    tags = Tags(Path(wrote.path))
    assert (wrote.clips, len(tags.of("audio"))) == (4, 4)
    assert "4 of 6 clips, the newest run first" in tags.text
    assert "prompt 3" in tags.text
    assert "prompt 4" not in tags.text
    write_page(musicgen.dataset.open_dataset(make.store.uri))
    assert "6 clips." in Tags(Path(wrote.path)).text  # the page is written anew


def test_carried_values_stand_beside_the_facts_and_long_ones_are_cut(make: Maker):
    rows = shard_of("r1-1", 0, 1)
    carried = pa.table({"length": ["long"], "levels": ["many"], "notes": ["x" * 1000], "words": ["word " * 1000]})
    make.shard(rows_of=replace(rows, carried=carried))
    text = Tags(Path(write_page(musicgen.dataset.open_dataset(make.store.uri)).path)).text
    assert "length0.5 s" in text
    assert "lengthlong" in text
    assert "levelsmany" in text
    assert f"notes{'x' * 196} ..." in text
    assert f"words{'word ' * 39}w ..." in text


def test_a_page_that_is_not_ours_is_not_written_over(make: Maker, tmp_path: Path):
    make.shard()
    dataset = musicgen.dataset.open_dataset(make.store.uri)
    for folder in (None, str(tmp_path / "elsewhere")):
        page = Path(write_page(dataset, folder).path)
        write_page(dataset, folder)
        page.write_text("<html>mine</html>")
        with pytest.raises(JobError, match=r"listen\.html was not written by this release"):
            write_page(dataset, folder)
        assert page.read_text() == "<html>mine</html>"


def test_a_missing_or_damaged_clip_does_not_hide_the_others(make: Maker):
    make.shard()
    gone, damaged, _ = musicgen.dataset.open_dataset(make.store.uri).to_arrow(["audio"]).column("audio").to_pylist()
    make.store.delete(gone)
    make.store.write(damaged, b"noise")
    wrote = write_page(musicgen.dataset.open_dataset(make.store.uri))
    tags = Tags(Path(wrote.path))
    assert (wrote.faults, len(tags.of("audio")), len(tags.of("article"))) == (2, 1, 3)
    assert "its audio is not there" in tags.text
    assert "not decodable audio" in tags.text


def test_a_file_that_a_link_leads_to_is_not_copied_into_the_page(make: Maker, tmp_path: Path):
    make.shard(rows=2)
    dataset = musicgen.dataset.open_dataset(make.store.uri)
    audio = [Path(make.store.uri, path) for path in dataset.to_arrow(["audio"])["audio"].to_pylist()]
    secret = tmp_path / "mine.flac"
    audio[1].rename(secret)
    audio[0].unlink()
    audio[0].symlink_to(secret)
    page = write_page(dataset, folder=str(tmp_path / "page"))
    assert page.faults == 2
    assert [file.name for file in (tmp_path / "page").rglob("*.flac")] == []


def test_a_dataset_in_a_bucket_needs_a_folder_for_the_page(s3, tmp_path: Path):
    from musicgen.storage import open_store

    make = Maker(open_store(s3.uri))
    make.shard()
    with pytest.raises(JobError, match="--output FOLDER"):
        write_page(musicgen.dataset.open_dataset(s3.uri))
    with pytest.raises(JobError, match="is no folder"):
        write_page(musicgen.dataset.open_dataset(s3.uri), s3.uri + "-page")
    page = Path(write_page(musicgen.dataset.open_dataset(s3.uri), str(tmp_path / "page")).path)
    tags = Tags(page)
    assert [decode_audio(source(page, attrs).read_bytes())[1] for attrs in tags.of("audio")] == [32000] * 3


def test_a_dataset_without_clips_is_an_error(make: Maker):
    make.shard(failing=dict.fromkeys(range(3), RowError("generation", "no")))
    with pytest.raises(StoreError, match="no clips to listen to yet"):
        write_page(musicgen.dataset.open_dataset(make.store.uri))


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("layout", ["files", "webdataset"])
def test_a_browser_loads_every_sound_and_picture(make: Maker, layout: str, tmp_path: Path):
    make = make.settings(layout=layout)
    rows = shard_of("r1-1", 0)
    make.shard(rows_of=replace(rows, requests=[replace(rows.requests[0], prompt=HOSTILE), *rows.requests[1:]]))
    page = Path(write_page(musicgen.dataset.open_dataset(make.store.uri)).path)
    with page.open("a", encoding="utf-8") as file:
        file.write(ASK)
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-sync",
    ]
    flags += [
        "--disable-component-update",
        f"--user-data-dir={tmp_path / 'browser'}",
        "--timeout=20000",
        "--virtual-time-budget=20000",
    ]
    done = subprocess.run(
        [str(CHROMIUM), *flags, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    answer = re.search('<p id="answer">([^<$]*)</p>', done.stdout)
    assert answer is not None, done.stderr
    assert answer[1].split() == ["0.500"] * 3 + ["880"] * 3
    assert "<title>dataset: listen</title>" in done.stdout  # the prompt's script did not run


def facts_of(page: str) -> list[str]:
    """The prompts on a page, from top to bottom."""
    return re.findall(r"<h2[^>]*>(.*?)</h2>", Path(page).read_text())


def test_the_newest_run_comes_first_and_conditions_choose(make: Maker, tmp_path: Path):
    make.shard("r1-1", rows_of=shard_of("r1-1", 0, 3, first=0))
    make.shard("r2-1", rows_of=shard_of("r2-1", 0, 3, first=3))
    for run, created_at in (("r1-1", "2026-02-01T00:00:00.000+00:00"), ("r2-1", "2026-01-01T00:00:00.000+00:00")):
        plan = replace(plan_of(run, rows=3, shard_rows=[[3]]), created_at=created_at)
        make.store.write(f"runs/{run}/plan.json", plan.to_json().encode())
    dataset = musicgen.dataset.open_dataset(make.store.uri)
    page = write_page(dataset)
    assert facts_of(page.path) == [f"prompt {n}" for n in range(6)]
    page = write_page(dataset, clips=2, where="caption_id in (2, 4, 5)")
    assert facts_of(page.path) == ["prompt 2", "prompt 4"]
    page = write_page(dataset.run("r2-1"), where="tags is null -- a comment")
    assert facts_of(page.path) == ["prompt 4"]
    text = Path(page.path).read_text()
    assert '<dt>caption_id</dt><dd dir="auto">4</dd>' in text
    assert '<dt>run</dt><dd dir="auto">r2-1</dd>' in text
    for mistake in ("bpm > 1", "prompt ilike", "(select count(*) from read_csv('/etc/passwd')) > 0", "'x'"):
        with pytest.raises(JobError, match="--where") as caught:
            write_page(dataset, where=mistake)
        assert "\n" not in str(caught.value)
    with pytest.raises(JobError, match=r"no clip of .* meets"):
        write_page(dataset, where="seed = 99")


def test_conditions_hold_on_datasets_with_types_that_duckdb_lacks(make: Maker):
    """Earlier releases carried them as they are."""
    rows = shard_of("r1-1", 0, 3)
    half = pa.array([0.5, 1.5, None], pa.float16())
    wide = pa.array([Decimal("0.50"), None, Decimal("2.50")], pa.decimal256(50, 2))
    nested = pa.array([[0.5], [1.5], None], pa.list_(pa.float16()))
    make.shard(rows_of=replace(rows, carried=pa.table({"half": half, "wide": wide, "nested": nested})))
    dataset = musicgen.dataset.open_dataset(make.store.uri)
    for where, expected in (
        ("seed > 0", ["prompt 1", "prompt 2"]),
        ("half > 1", ["prompt 1"]),
        ("wide::double > 1", ["prompt 2"]),
        ("nested is null", ["prompt 2"]),
    ):
        assert facts_of(write_page(dataset, where=where).path) == expected


@pytest.mark.parametrize("layout", ["files", "parquet"])
def test_conditions_choose_across_row_groups(make: Maker, layout: str):
    make.settings(layout=layout).shard(rows=8)
    dataset = musicgen.dataset.open_dataset(make.store.uri)
    (part,) = dataset.parts()
    with dataset.store.open(part) as file:
        table = ParquetReader(file).read()
    with pq.ParquetWriter(make.store.join(part), table.schema) as writer:
        writer.write_table(table, row_group_size=3)
    selected = select_clips(dataset, 3, "seed in (1, 6, 7) or seed = 2")
    assert [clip.row["seed"] for clip in selected] == [1, 2, 6]
    (clip,) = select_clips(dataset, 3, "caption_id = 4")
    assert (clip.row["prompt"], clip.carried["caption_id"]) == ("prompt 4", 4)
    assert read_audio_bytes(dataset.store, clip.row).startswith(b"fLaC")


def test_the_melody_that_was_given_can_be_heard(make: Maker, tmp_path: Path):
    melody = tmp_path / "tune of mine.wav"
    soundfile.write(melody, np.sin(np.arange(8000) / 9) / 2, 16_000)
    sha256 = hashlib.sha256(melody.read_bytes()).hexdigest()
    rows = shard_of("r1-1", 0, 3)
    requests = [replace(request, melody=str(melody), melody_sha256=sha256) for request in rows.requests[:2]]
    requests[1] = replace(requests[1], melody_sha256="0" * 64)  # the file has changed since
    make.shard(rows_of=replace(rows, requests=[*requests, rows.requests[2]]))
    page = Tags(Path(write_page(musicgen.dataset.open_dataset(make.store.uri)).path))
    players = [tag for tag in page.of("audio") if tag["aria-label"].startswith("Melody")]
    assert [player["aria-label"] for player in players] == ["Melody of clip 1"]
    copy = source(Path(make.store.join("listen.html")), players[0])
    assert copy.read_bytes() == melody.read_bytes()
