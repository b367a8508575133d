"""Charts of a run's page as SVG, which scale with the page and follow its colors; all text is escaped."""

from collections.abc import Sequence
from html import escape

import numpy as np

_WIDTH, _HEIGHT = 640, 180
_LEFT, _BOTTOM, _TOP = 56, 24, 8
_BINS = 24


def draw_histogram(values: Sequence[float], unit: str, title: str) -> str:
    """Draw how often values occur; empty if there is none."""
    if not len(values):
        return ""
    counts, edges = np.histogram(np.asarray(values, float), bins=_BINS)
    columns = [
        (f"{edges[bin]:.3g} to {edges[bin + 1]:.3g} {unit}: {count:,}", count) for bin, count in enumerate(counts)
    ]
    ends = (f"{edges[0]:.3g} {unit}", f"{edges[-1]:.3g} {unit}")
    return _draw_columns(columns, ends, title)


def draw_throughput(timeline: Sequence[tuple[float, float]], title: str) -> str:
    """Draw seconds of audio made per second, from (seconds since the start, seconds of audio made until then)."""
    if len(timeline) < 2:
        return ""
    seconds, audio_s = np.asarray(timeline, float).T
    edges = np.linspace(seconds[0], seconds[-1], min(60, len(seconds)) + 1)
    made = np.diff(np.interp(edges, seconds, audio_s)) / np.maximum(np.diff(edges), 1e-9)
    columns = [(f"{edges[bin]:,.0f} s: {rate:.2f}x real time", max(0.0, rate)) for bin, rate in enumerate(made)]
    return _draw_columns(columns, (f"{edges[0]:,.0f} s", f"{edges[-1]:,.0f} s"), title)


def _draw_columns(columns: Sequence[tuple[str, float]], ends: tuple[str, str], title: str) -> str:
    """Draw columns, each with its description, over an axis whose ends are named."""
    highest = max((value for _, value in columns), default=0.0) or 1.0
    floor = _HEIGHT - _BOTTOM
    step = (_WIDTH - _LEFT) / len(columns)
    bars = []
    for place, (description, value) in enumerate(columns):
        height = (floor - _TOP) * value / highest
        bars.append(
            f'<rect x="{_LEFT + place * step:.1f}" y="{floor - height:.1f}" width="{max(1.0, step - 2):.1f}" '
            f'height="{height:.1f}"><title>{escape(description)}</title></rect>'
        )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">'
        f'<line x1="{_LEFT}" y1="{floor}" x2="{_WIDTH}" y2="{floor}"/>{"".join(bars)}'
        f'<text x="{_LEFT - 6}" y="{_TOP + 10}" text-anchor="end">{highest:,.4g}</text>'
        f'<text x="{_LEFT - 6}" y="{floor}" text-anchor="end">0</text>'
        f'<text x="{_LEFT}" y="{_HEIGHT - 6}">{escape(ends[0])}</text>'
        f'<text x="{_WIDTH}" y="{_HEIGHT - 6}" text-anchor="end">{escape(ends[1])}</text></svg>'
    )
