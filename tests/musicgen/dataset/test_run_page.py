"""The page of a run: one file of bounded size that needs nothing from elsewhere, whatever the manifest says."""

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from actors.timeline import Timeline
from musicgen.audio import decode_audio
from musicgen.audio.thumbnail import THUMBNAIL_PIXELS, draw_thumbnail
from musicgen.dataset import paths
from musicgen.dataset.reader import read_dataset
from musicgen.dataset.run_page import write_run_page
from musicgen.dataset.run_report import RunReport, Session, read_report, write_report
from musicgen.dataset.status import run_statuses, write_missing_run_keys
from musicgen.errors import RowError
from musicgen.run_plan import Plan

from .conftest import Maker, plan_of, shard_of

HOSTILE = '<script>alert(1)</script> & "harp"'
RUN = "r1-1"


class Tags(HTMLParser):
    """Collects the tags of a page with their attributes."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def make_page(make: Maker, rows: int = 6) -> str:
    rows_of = shard_of(RUN, 0, rows)
    rows_of = replace(rows_of, requests=[replace(request, prompt=HOSTILE) for request in rows_of.requests])
    make.shard(rows_of=rows_of, failing={1: RowError("generation", HOSTILE)})
    plan: Plan = plan_of(RUN, rows, [[rows]])
    make.store.write(paths.plan_file(RUN), plan.to_json().encode())
    timeline = Timeline()
    for second in range(500):
        timeline.add(second, 2.0 * second)
    session = Session("2026-01-01", "2026-01-02", 5, 1, 2.5, 500.0, timeline=timeline.points, price_per_hour=2.0)
    write_report(make.store, RunReport(RUN, {}, {}, (session,)))
    dataset = read_dataset(make.store)
    write_missing_run_keys(dataset)
    (status,) = run_statuses(dataset)
    report = read_report(make.store, RUN)
    assert report is not None
    return make.store.read(write_run_page(dataset, status, report)).decode()


@pytest.mark.parametrize("layout", ["files", "parquet"])
def test_a_page_has_charts_and_clips_and_nothing_from_elsewhere(make: Maker, layout: str) -> None:
    page = make_page(make.settings(layout=layout))
    tags = Tags(page).tags
    names = [tag for tag, _ in tags]
    assert "script" not in names
    assert "&lt;script&gt;" in page
    links = [value for _, attributes in tags for name in ("src", "href") if (value := attributes.get(name))]
    assert len(links) == 2 * 5
    assert all(link.startswith(("data:audio/mpeg;base64,", "data:image/png;base64,")) for link in links)
    assert (names.count("audio"), names.count("svg")) == (5, 3)
    assert "<td>generation</td><td>1</td>" in page
    assert "2.00x real time" in page
    sound = base64.b64decode(re.search(r"data:audio/mpeg;base64,([^\"]+)", page)[1])
    audio, rate = decode_audio(sound)
    assert audio.shape[1] / rate == pytest.approx(0.5, abs=0.15)


def test_a_clip_that_is_gone_has_a_reason_in_its_place(make: Maker) -> None:
    make.shard()
    for info in list(make.store.list(paths.AUDIO)):
        make.store.delete(info.path)
    (status,) = run_statuses(dataset := read_dataset(make.store))
    page = make.store.read(write_run_page(dataset, status, RunReport(RUN, {}, {}))).decode()
    assert page.count("its audio cannot be read") == 3


def test_a_timeline_keeps_few_points_of_a_long_run() -> None:
    timeline = Timeline()
    for tick in range(200_000):
        timeline.add(tick / 4, tick / 2)
    assert 30 < len(timeline.points) <= 121
    assert timeline.points[0] == (0.0, 0.0)
    assert timeline.points[-1] == (round(199_999 / 4, 2), 199_999 / 2)
    gaps = np.diff([second for second, _ in timeline.points])
    assert gaps.min() > 0


def test_a_picture_shows_a_tone_at_its_pitch() -> None:
    from PIL import Image

    seconds = np.arange(32000) / 32000
    low, high = (np.sin(2 * np.pi * hz * seconds, dtype=np.float32)[None] for hz in (220.0, 3520.0))
    rows = []
    for tone in (low, high):
        picture = Image.open(io.BytesIO(draw_thumbnail(tone, 32000)))
        assert picture.size == THUMBNAIL_PIXELS
        grey = np.asarray(picture.convert("L"), float)
        rows.append(int(grey.mean(axis=1).argmax()))
    octaves_high = np.log2(16000 / 40)
    assert (rows[0] - rows[1]) / THUMBNAIL_PIXELS[1] * octaves_high == pytest.approx(4.0, abs=0.2)
    silent = np.asarray(Image.open(io.BytesIO(draw_thumbnail(np.zeros((2, 10), np.float32), 32000))).convert("L"))
    assert silent.max() < 30
