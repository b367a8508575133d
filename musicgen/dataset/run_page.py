"""Writes `runs/<run>/report.html`: how a run went, and ten of its clips to hear. One file, without scripts.

Its size is bounded whatever the run's: clips are excerpts, and levels are read from some of the index's parts.
"""

import base64
import io
from collections import Counter
from collections.abc import Iterable, Iterator
from html import escape
from itertools import islice
from textwrap import shorten

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from musicgen.audio import encode_audio
from musicgen.audio.thumbnail import THUMBNAIL_PIXELS, draw_thumbnail
from musicgen.dataset import paths
from musicgen.dataset.clip_audio import decode_clip
from musicgen.dataset.clip_selection import SelectedClip, select_clips
from musicgen.dataset.page import PAGE_MARK, STYLESHEET
from musicgen.dataset.reader import Dataset, read_audio_bytes
from musicgen.dataset.run_charts import draw_histogram, draw_throughput
from musicgen.dataset.run_keys import REFUSED_SHARD, find_run_keys, group_parts
from musicgen.dataset.run_report import RunReport
from musicgen.dataset.status import RunStatus
from musicgen.dataset.visible_rows import read_visible
from musicgen.errors import RowError
from musicgen.parallel import map_ordered
from musicgen.shard import strip_folder

_CLIPS = 10
_EXCERPT_S = 10.0
_PARTS_READ = 48  # of the run's index, for the histograms
_FAILURES_SHOWN = 20
_LONGEST_TEXT = 300
_THREADS = 16


def write_run_page(dataset: Dataset, status: RunStatus, report: RunReport) -> str:
    """Write the page of a run, in place of an earlier one, and return its path in the dataset. Raises `StoreError`."""
    run = Dataset(dataset.store, dataset.info, status.run)
    path = paths.run_page(status.run)
    dataset.store.write(path, render_run_page(run, status, report).encode())
    return path


def render_run_page(run: Dataset, status: RunStatus, report: RunReport) -> str:
    """Return the page's HTML."""
    levels, of_parts = _read_levels(run)
    throughput = [
        draw_throughput(session.timeline, f"throughput from {session.started_at} on") for session in report.sessions
    ]
    sections = [
        _render_section(
            "Throughput", "Seconds of audio made in a second, over the time of each command.", "".join(throughput)
        ),
        _render_section("Failures", "", _render_failures(run, status)),
        _render_section("Length", f"How many clips are how long{of_parts}.", _draw_column(levels, "duration_s", "s")),
        _render_section("Loudness", f"By ITU-R BS.1770{of_parts}.", _draw_column(levels, "loudness_lufs", "LUFS")),
    ]
    cards = [_render_clip(run, clip, number) for number, clip in enumerate(_choose_clips(run), 1)]
    heard = f"The first {_EXCERPT_S:g} s of each, as MP3; the brighter the louder, pitch upwards by octaves."
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
{PAGE_MARK}
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Run {escape(status.run)}</title>
<style>{STYLESHEET}{_OWN_STYLESHEET}</style>
</head>
<body>
<main>
<h1>Run {escape(status.run)}</h1>
<p>of the dataset <span dir="auto">{escape(run.uri)}</span></p>
<article>{_render_facts(status, report)}</article>
{"".join(sections)}
{_render_section("Clips", heard, f"<ol>{''.join(cards)}</ol>") if cards else ""}
</main>
</body>
</html>
"""


def _render_section(title: str, note: str, content: str) -> str:
    if not content:
        return ""
    return f"<section><h2>{escape(title)}</h2><p>{escape(note)}</p>{content}</section>\n"


def _render_facts(status: RunStatus, report: RunReport) -> str:
    totals = report.totals()
    facts = {
        "model": strip_folder(status.model or ""),
        "planned at": status.created_at,
        "clips": f"{status.made:,} of {status.planned:,} made",
        "failed": f"{status.failed:,}",
        "invalid": f"{status.invalid:,}",
        "missing": f"{status.missing:,}",
        "audio": f"{status.audio_s / 3600:,.3f} h",
        "commands": str(len(report.sessions)),
        "actor-hours": f"{totals['actor_hours']:,}",
        "GPU-hours": f"{totals['gpu_hours']:,}",
        "cost": "" if report.cost is None else f"{report.cost:,.2f}",
    }
    return _render_list([(label, value) for label, value in facts.items() if value])


def _render_list(facts: Iterable[tuple[str, str]]) -> str:
    items = (f'<div><dt>{escape(label)}</dt><dd dir="auto">{escape(value)}</dd></div>' for label, value in facts)
    return f"<dl>{''.join(items)}</dl>"


def _draw_column(levels: pa.Table, column: str, unit: str) -> str:
    return draw_histogram([value for value in levels[column].to_pylist() if value is not None], unit, column)


def _read_levels(run: Dataset) -> tuple[pa.Table, str]:
    """Read lengths and loudness of the run's clips, from some of its parts if it has many; and which they are."""
    part_paths = list(run.parts())
    chosen = part_paths[:: max(1, -(-len(part_paths) // _PARTS_READ))]
    tombstones = run.tombstones()

    def read(path: str) -> pa.Table:
        return read_visible(run.store, path, tombstones.hidden_in(path), list(_LEVELS.names))

    tables = list(map_ordered(read, chosen, threads=_THREADS))
    of_parts = "" if len(chosen) == len(part_paths) else f", in {len(chosen):,} of {len(part_paths):,} shards"
    return pa.concat_tables(tables) if tables else _LEVELS.empty_table(), of_parts


def _render_failures(run: Dataset, status: RunStatus) -> str:
    """Return the failures by class, and the first of them with their reasons; empty if there is none."""
    counts = _count_failures(run)
    if status.invalid:
        counts["invalid"] = status.invalid
    if not counts:
        return ""
    rows = "".join(f"<tr><td>{escape(name)}</td><td>{count:,}</td></tr>" for name, count in counts.most_common())
    failures = [
        (str(row["error_class"]), f"{row['source']}: {row['error']}") for row in run.first_failures(_FAILURES_SHOWN)
    ]
    reasons = _render_list((name, shorten(text, _LONGEST_TEXT, placeholder=" ...")) for name, text in failures)
    return f"<table><tr><th>class</th><th>rows</th></tr>{rows}</table>{reasons}"


def _count_failures(run: Dataset) -> Counter[str]:
    """Count the failures of the run's rows by class, from its file of keys, which a finished run has."""
    files = {info.path: info for info in run.store.list(paths.RUNS)}
    counts: Counter[str] = Counter()
    for file_info in find_run_keys(group_parts(run.part_files()), files).values():
        rows = pq.read_table(io.BytesIO(run.store.read(file_info.path)), columns=["shard", "error_class"])
        classes = rows.filter(pc.not_equal(rows["shard"], REFUSED_SHARD))["error_class"]
        counts.update(name for name in classes.drop_null().to_pylist())
    return counts


def _choose_clips(run: Dataset) -> Iterator[SelectedClip]:
    return islice(select_clips(run, _CLIPS), _CLIPS)


def _render_clip(run: Dataset, clip: SelectedClip, number: int) -> str:
    row = clip.row
    prompt = escape(shorten(row["prompt"] or "", _LONGEST_TEXT, placeholder=" ...")) or "(no prompt)"
    try:
        audio, sample_rate = decode_clip(row, read_audio_bytes(run.store, row))
        excerpt = audio[:, : round(_EXCERPT_S * sample_rate)]
        sound = _embed("audio/mpeg", encode_audio(excerpt, sample_rate, "mp3").data)
        picture = _embed("image/png", draw_thumbnail(excerpt, sample_rate))
        width, height = THUMBNAIL_PIXELS
        heard = (
            f'<audio controls preload="metadata" src="{sound}" aria-label="Clip {number}"></audio>'
            f'<img src="{picture}" alt="Spectrogram of clip {number}" width="{width}" height="{height}">'
        )
    except (FileNotFoundError, ValueError, RowError) as error:
        heard = f'<p class="fault">its audio cannot be read: {escape(str(error))}</p>'
    loudness = row["loudness_lufs"]
    facts = [
        ("id", str(row["id"] or "")),
        ("length", f"{row['duration_s']:g} s"),
        ("loudness", "" if loudness is None else f"{loudness:.1f} LUFS"),
        ("seed", str(row["seed"])),
        ("key", row["key"]),
    ]
    shown = _render_list(fact for fact in facts if fact[1])
    return f'<li><article><h3 dir="auto">{prompt}</h3>{heard}{shown}</article></li>'


def _embed(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


_LEVELS = pa.schema([("duration_s", pa.float64()), ("loudness_lufs", pa.float64())])
_OWN_STYLESHEET = """
section { margin: 24px 0; }
section > p { margin: 0 0 10px; color: var(--soft); }
h3 { margin: 0 0 10px; font-size: 1rem; overflow-wrap: anywhere; }
svg { display: block; width: 100%; background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 8px; margin-bottom: 10px; }
rect { fill: #6a4fd0; }
line { stroke: var(--line); }
text { fill: var(--soft); font: 12px system-ui, sans-serif; }
table { border-collapse: collapse; }
td, th { text-align: left; padding: 4px 24px 4px 0; border-bottom: 1px solid var(--line); }
"""
