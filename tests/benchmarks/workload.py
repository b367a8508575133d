"""What is to be generated: prompts, durations and the order in which they come."""

import csv
import random
from dataclasses import dataclass
from pathlib import Path

FRAME_RATE = 50  # of every released checkpoint, Hz
SEED = 2306

_FORMS = (
    "{mood} {genre} with {first} and {second}, {tempo} bpm, {place}",
    "a {mood} {genre} track for {place}: {first} over a steady {second} line, around {tempo} bpm and slightly {other}",
    "{first} solo, {mood} and {other}, {tempo} bpm, as if for {place}, with a distant {second} that answers every "
    "phrase of the melody",
)
_WORDS = {
    "mood": ["warm", "bright", "dark", "dreamy", "tense", "hopeful", "solemn", "playful", "nostalgic", "driving"],
    "other": ["distorted", "clean", "vintage", "mellow", "syncopated", "muted", "orchestral", "ambient"],
    "genre": ["jazz", "rock", "techno", "folk", "reggae", "house", "waltz", "blues", "soul", "lofi"],
    "first": ["piano", "guitar", "violin", "saxophone", "flute", "synthesizer", "marimba", "cello", "trumpet", "harp"],
    "second": ["bass", "drum", "organ", "choir", "strings", "banjo", "clarinet", "percussion"],
    "place": ["film", "city", "night", "festival", "morning", "ocean", "forest", "game", "trailer", "advert"],
    "tempo": ["70", "84", "96", "110", "120", "128", "140", "168"],
}


@dataclass(frozen=True)
class Row:
    """One clip to make."""

    prompt: str
    frames: int
    seed: int

    @property
    def audio_s(self) -> float:
        """Its length in seconds."""
        return self.frames / FRAME_RATE


def prompts(count: int, manifest: Path | None = None) -> list[str]:
    """`count` prompts: a seeded choice of the captions in a CSV (column `caption` or `prompt`), else our own words."""
    source = random.Random(SEED)
    if manifest is None:
        return [
            source.choice(_FORMS).format(**{key: source.choice(words) for key, words in _WORDS.items()})
            for _ in range(count)
        ]
    with manifest.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        column = next((name for name in ("prompt", "caption") if name in (rows.fieldnames or ())), None)
        if column is None:
            raise SystemExit(f"{manifest}: no column `prompt` or `caption`; give a CSV that has one")
        found = [" ".join(row[column].split()) for row in rows if row[column]]
    return [source.choice(found) for _ in range(count)]


def uniform(clips: int, frames: int, manifest: Path | None = None) -> list[Row]:
    """Clips of one length."""
    return [Row(prompt, frames, seed) for seed, prompt in enumerate(prompts(clips, manifest))]


def mixed(clips: int, manifest: Path | None = None, shortest_s: float = 2.0, longest_s: float = 12.0) -> list[Row]:
    """Clips of 2 to 12 s, seeded, as they come in a manifest: not sorted."""
    source = random.Random(SEED + 1)
    lengths = [round(source.uniform(shortest_s, longest_s) * FRAME_RATE) for _ in range(clips)]
    return [
        Row(prompt, frames, seed)
        for seed, (prompt, frames) in enumerate(zip(prompts(clips, manifest), lengths, strict=True))
    ]
