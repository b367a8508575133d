"""What a clip is called in words, as people would type it: never everything, and never in the same order."""

import re

import numpy as np

from musicgen.corpus.arrange import MOODS, pace
from musicgen.corpus.score import TONICS, Score

NAMES = {
    "piano": ("piano", "piano", "piano", "grand piano", "solo piano", "piano melody", "soft piano"),
    "guitar": ("guitar", "guitar", "acoustic guitar", "plucked guitar", "nylon guitar", "guitar melody"),
    "organ": ("organ", "organ", "church organ", "hammond organ", "organ melody"),
    "flute": ("flute", "flute", "wooden flute", "flute melody", "solo flute"),
    "strings": ("strings", "strings", "violin", "bowed strings", "violins", "string section"),
    "bell": ("bells", "bell", "vibraphone", "music box", "chimes", "glockenspiel"),
}
_PACES = {
    "slow": ("slow", "slow tempo", "slow and quiet", "slowly", "at a slow tempo"),
    "moderate": ("moderate tempo", "medium tempo", "mid tempo", "at a moderate tempo", "moderate"),
    "fast": ("fast", "fast tempo", "up tempo", "quick", "at a fast tempo"),
}
_DRUMS = ("with drums", "drums", "with a steady beat", "steady drum beat", "with bass and drums", "drum kit")
_NO_DRUMS = ("no drums", "without drums", "no beat")
_MODES = {
    "major": ("major key", "in a major key", "major", "bright major"),
    "minor": ("minor key", "in a minor key", "minor", "dark minor"),
}
_TUNE = ("folk tune", "old tune", "traditional melody", "tune")
_CHORALE = ("chorale", "hymn", "baroque chorale")
_PIECE = ("music", "melody", "tune", "instrumental", "song")
_OPENINGS = ("a", "the sound of", "music for", "an instrumental with")
_OTHERS = (
    "bpm",
    "tempo",
    "beats per minute",
    "in",
    "for",
    "and",
    "with",
    "a",
    "an",
    "at",
    "of",
    "sharp",
    "flat",
    *"ABCDEFG",
)


def caption(score: Score, rng: np.random.Generator) -> str:
    """A prompt for this score. The instrument is nearly always in it; tempo, key, drums, mood and kind often."""
    instrument = _one(NAMES[score.instrument], rng)
    if score.drums and instrument.startswith("solo "):
        instrument = score.instrument
    mood = score.mood if rng.random() < 0.5 else ""
    phrases = [phrase for phrase, chance in _facts(score, rng) if rng.random() < chance]
    kind = _one(_PIECE if score.source == "composed" else _CHORALE if score.source.startswith("bach/") else _TUNE, rng)
    head = rng.random()
    if head < 0.03:
        start = f"{mood} {kind}".strip()  # no instrument: guidance has something to do without it
    elif head < 0.6:
        start = f"{mood} {instrument}".strip()
    elif head < 0.75:
        start = f"{mood} {kind} for {instrument}".strip()
    elif head < 0.85:
        start = f"{_one(_OPENINGS[1:], rng)} {mood} {instrument}".replace("  ", " ")
        start = start.replace("an instrumental with the", "an instrumental with")
    elif head < 0.95:
        start = f"{instrument} {kind}"
        phrases += [mood] if mood else []
    else:
        start = f"{kind} played on {instrument}"
    parts = [str(part) for part in rng.permutation(phrases)] if phrases else []
    # The instrument mostly comes first.
    parts.insert(0 if rng.random() < 0.8 else int(rng.integers(len(parts) + 1)), start)
    return _dress(parts, rng)


def _facts(score: Score, rng: np.random.Generator) -> list[tuple[str, float]]:
    """Phrases and how often each is said."""
    bpm = f"{score.tempo_bpm:.0f}"
    numbered = rng.random() < 0.75
    tempo = _one(
        (f"{bpm} bpm", f"{bpm} bpm", f"{bpm} bpm", f"at {bpm} bpm", f"tempo {bpm}", f"{bpm} beats per minute"), rng
    )
    key = f"{TONICS[score.tonic]} {score.mode}"
    named = rng.random() < 0.65
    mode = _one((f"in {key}", key, f"in the key of {key}"), rng) if named else _one(_MODES[score.mode], rng)
    return [
        (tempo if numbered else _one(_PACES[pace(score.tempo_bpm)], rng), 0.85),
        (mode, 0.8),
        (_one(_DRUMS, rng), 0.75) if score.drums else (_one(_NO_DRUMS, rng), 0.4),
    ]


def _dress(parts: list[str], rng: np.random.Generator) -> str:
    style = rng.random()
    text = (", " if style < 0.75 else " " if style < 0.9 else "; ").join(parts)
    if rng.random() < 0.15:
        text = text[0].upper() + text[1:]
        if rng.random() < 0.6:
            text += "."
    return text


def vocabulary() -> list[str]:
    """Every word that a caption may hold, sorted, numbers and punctuation too: what a tokenizer is to know."""
    said = [
        *MOODS,
        *_DRUMS,
        *_NO_DRUMS,
        *_TUNE,
        *_CHORALE,
        *_PIECE,
        *_OPENINGS,
        *TONICS,
        *_OTHERS,
        "played on",
        "the key of",
    ]
    for group in (NAMES, _PACES, _MODES):
        said += [phrase for phrases in group.values() for phrase in phrases]
    words = {word for phrase in said for word in re.findall(r"[A-Za-z][A-Za-z-]*", phrase)}
    words |= {word[0].upper() + word[1:] for word in words}  # the first word of a sentence
    return sorted(words | {str(bpm) for bpm in range(60, 181)} | {",", ".", ";"})


def _one(choices: tuple[str, ...], rng: np.random.Generator) -> str:
    return choices[rng.integers(len(choices))]
