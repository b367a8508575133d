"""Renders the listening page as HTML: one file without scripts or network access. All text of a manifest is escaped."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from textwrap import shorten
from urllib.parse import quote

PAGE_MARK = '<meta name="generator" content="musicgen-batch">'
"""Says in a page that we wrote it, so that a later page may replace it."""


@dataclass(frozen=True, slots=True)
class ClipCard:
    """A clip on the page. `audio` and `picture` are paths relative to the page; if they are None, `fault` is why."""

    prompt: str
    duration_s: float
    facts: Sequence[tuple[str, str]]
    audio: str | None = None
    picture: str | None = None
    fault: str = ""
    melody: str | None = None  # the path of the melody that the clip was given


def render_page(title: str, cards: Sequence[ClipCard], dataset_clips: int, pixels: tuple[int, int]) -> str:
    """Return the page's HTML. `dataset_clips` is the number of clips in the dataset, `pixels` the size of a picture."""
    summary = f"{dataset_clips:,} {'clip' if dataset_clips == 1 else 'clips'}"
    if len(cards) < dataset_clips:
        summary = f"{len(cards):,} of {dataset_clips:,} clips, the newest run first"
        summary += " (<code>musicgen listen</code> with <code>--clips</code>, <code>--where</code> or"
        summary += " <code>--run</code> shows others)"
    list_items = "\n".join(_render_card(number, card, pixels) for number, card in enumerate(cards, 1))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
{PAGE_MARK}
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}: listen</title>
<style>{STYLESHEET}</style>
</head>
<body>
<main>
<h1 dir="auto">{escape(title)}</h1>
<p>{summary}. The pictures are log-mel spectrograms: time to the right, pitch upwards,
the brighter the louder (80 dB).</p>
<ol>
{list_items}
</ol>
</main>
</body>
</html>
"""


def _render_card(number: int, card: ClipCard, pixels: tuple[int, int]) -> str:
    prompt = escape(card.prompt) or "(no prompt)"
    short_prompt = escape(shorten(card.prompt, 80, placeholder=" ...")) or prompt
    facts = "".join(
        f'<div><dt>{escape(label)}</dt><dd dir="auto">{escape(value)}</dd></div>' for label, value in card.facts
    )
    lines = [f'<li><article aria-labelledby="clip-{number}">', f'<h2 id="clip-{number}" dir="auto">{prompt}</h2>']
    if card.audio is not None:
        lines.append(
            f'<audio controls preload="metadata" src="{_quote_path(card.audio)}"'
            f' aria-label="Clip {number}: {short_prompt}"></audio>'
        )
    if card.picture is not None:
        alternative_text = f"Log-mel spectrogram of clip {number}, {card.duration_s:.1f} seconds: {short_prompt}"
        lines.append(
            f'<img src="{_quote_path(card.picture)}" alt="{alternative_text}"'
            f' width="{pixels[0]}" height="{pixels[1]}" loading="lazy">'
        )
    if card.melody is not None:
        lines.append(
            f'<details><summary>the melody that it was given</summary><audio controls preload="none"'
            f' src="{_quote_path(card.melody)}" aria-label="Melody of clip {number}"></audio></details>'
        )
    if card.fault:
        lines.append(f'<p class="fault">{escape(card.fault)}</p>')
    return "\n".join([*lines, f"<dl>{facts}</dl>", "</article></li>"])


def _quote_path(path: str) -> str:
    """Return a relative path as a URL, in which a colon or a percent sign has no special meaning."""
    return escape(quote(path))


STYLESHEET = """
:root { color-scheme: light dark; --page: #f5f5f7; --card: #fff; --text: #1c1c22; --soft: #5a5a66;
  --line: #d9d9e0; --fault: #a3180f; }
@media (prefers-color-scheme: dark) {
  :root { --page: #0e0e13; --card: #1b1b23; --text: #ececf1; --soft: #a9a9b6; --line: #33333f; --fault: #ff9c92; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 960px; margin: 0 auto; padding: 24px 16px; }
h1 { margin: 0 0 4px; font-size: 1.6rem; overflow-wrap: anywhere; }
main > p { margin: 0 0 24px; color: var(--soft); }
ol { list-style: none; margin: 0; padding: 0; display: grid; gap: 20px; }
article { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 16px 20px; }
h2 { margin: 0 0 10px; font-size: 1.1rem; overflow-wrap: anywhere; }
audio { display: block; width: 100%; margin-bottom: 10px; }
img { display: block; max-width: 100%; height: auto; border-radius: 6px; }
details { color: var(--soft); font-size: .875rem; margin-top: 8px; }
.fault { color: var(--fault); }
dl { display: flex; flex-wrap: wrap; gap: 4px 24px; margin: 10px 0 0; font-size: .875rem; }
dl div { display: flex; gap: 6px; min-width: 0; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
"""
