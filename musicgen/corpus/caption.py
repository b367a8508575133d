"""Draws captions for scores, as a person might type them: some of the score's facts, in varying order."""

import re

import numpy as np

from musicgen.corpus.arrange import MOODS, classify_tempo
from musicgen.corpus.score import TONICS, Score

INSTRUMENT_NAMES = {
    "piano": ("piano", "piano", "piano", "grand piano", "solo piano", "piano melody", "soft piano"),
    "guitar": ("guitar", "guitar", "acoustic guitar", "plucked guitar", "nylon guitar", "guitar melody"),
    "organ": ("organ", "organ", "church organ", "hammond organ", "organ melody"),
    "flute": ("flute", "flute", "wooden flute", "flute melody", "solo flute"),
    "strings": ("strings", "strings", "violin", "bowed strings", "violins", "string section"),
    "bell": ("bells", "bell", "vibraphone", "music box", "chimes", "glockenspiel"),
}
_TEMPO_PHRASES = {
    "slow": ("slow", "slow tempo", "slow and quiet", "slowly", "at a slow tempo"),
    "moderate": ("moderate tempo", "medium tempo", "mid tempo", "at a moderate tempo", "moderate"),
    "fast": ("fast", "fast tempo", "up tempo", "quick", "at a fast tempo"),
}
_DRUMS = ("with drums", "drums", "with a steady beat", "steady drum beat", "with bass and drums", "drum kit")
_NO_DRUMS = ("no drums", "without drums", "no beat")
_MODE_PHRASES = {
    "major": ("major key", "in a major key", "major", "bright major"),
    "minor": ("minor key", "in a minor key", "minor", "dark minor"),
}
_TUNE_KINDS = ("folk tune", "old tune", "traditional melody", "tune")
_CHORALE_KINDS = ("chorale", "hymn", "baroque chorale")
_PIECE_KINDS = ("music", "melody", "tune", "instrumental", "song")
_OPENINGS = ("a", "the sound of", "music for", "an instrumental with")
_OTHER_WORDS = (
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


def draw_caption(score: Score, rng: np.random.Generator) -> str:
    """Draw a prompt for this score.

    It nearly always names the instrument, and often tempo, key, drums, mood and kind.
    """
    instrument = _draw_one(INSTRUMENT_NAMES[score.instrument], rng)
    if score.drums and instrument.startswith("solo "):
        instrument = score.instrument
    mood = score.mood if rng.random() < 0.5 else ""
    phrases = [phrase for phrase, chance in _draw_phrases(score, rng) if rng.random() < chance]
    kind = _draw_one(_kinds_of(score.source), rng)
    opening_choice = rng.random()
    if opening_choice < 0.03:
        opening = f"{mood} {kind}".strip()  # without an instrument, so that the model also learns from such prompts
    elif opening_choice < 0.6:
        opening = f"{mood} {instrument}".strip()
    elif opening_choice < 0.75:
        opening = f"{mood} {kind} for {instrument}".strip()
    elif opening_choice < 0.85:
        opening = f"{_draw_one(_OPENINGS[1:], rng)} {mood} {instrument}".replace("  ", " ")
        opening = opening.replace("an instrumental with the", "an instrumental with")
    elif opening_choice < 0.95:
        opening = f"{instrument} {kind}"
        phrases += [mood] if mood else []
    else:
        opening = f"{kind} played on {instrument}"
    ordered = [str(phrase) for phrase in rng.permutation(phrases)] if phrases else []
    # In four captions of five the instrument comes first.
    ordered.insert(0 if rng.random() < 0.8 else int(rng.integers(len(ordered) + 1)), opening)
    return _join_phrases(ordered, rng)


def _kinds_of(source: str) -> tuple[str, ...]:
    """Return the words for the kind of piece that comes from a source ("composed", or a tune's name)."""
    if source == "composed":
        return _PIECE_KINDS
    return _CHORALE_KINDS if source.startswith("bach/") else _TUNE_KINDS


def _draw_phrases(score: Score, rng: np.random.Generator) -> list[tuple[str, float]]:
    """Draw a phrase for tempo, key and drums; each with the probability that the caption has it."""
    bpm = f"{score.tempo_bpm:.0f}"
    tempo_as_number = rng.random() < 0.75
    tempo_number = _draw_one(
        (f"{bpm} bpm", f"{bpm} bpm", f"{bpm} bpm", f"at {bpm} bpm", f"tempo {bpm}", f"{bpm} beats per minute"), rng
    )
    key = f"{TONICS[score.tonic]} {score.mode}"
    key_named = rng.random() < 0.65
    key_phrases = (f"in {key}", key, f"in the key of {key}") if key_named else _MODE_PHRASES[score.mode]
    key_phrase = _draw_one(key_phrases, rng)
    tempo = tempo_number if tempo_as_number else _draw_one(_TEMPO_PHRASES[classify_tempo(score.tempo_bpm)], rng)
    return [
        (tempo, 0.85),
        (key_phrase, 0.8),
        (_draw_one(_DRUMS, rng), 0.75) if score.drums else (_draw_one(_NO_DRUMS, rng), 0.4),
    ]


def _join_phrases(phrases: list[str], rng: np.random.Generator) -> str:
    """Join phrases by commas, blanks or semicolons; some captions are written as a sentence."""
    separator = rng.random()
    text = (", " if separator < 0.75 else " " if separator < 0.9 else "; ").join(phrases)
    if rng.random() < 0.15:
        text = text[0].upper() + text[1:]
        if rng.random() < 0.6:
            text += "."
    return text


def caption_vocabulary() -> list[str]:
    """Return every word, number and punctuation mark that a caption may hold, sorted: a tokenizer's vocabulary."""
    all_phrases = [
        *MOODS,
        *_DRUMS,
        *_NO_DRUMS,
        *_TUNE_KINDS,
        *_CHORALE_KINDS,
        *_PIECE_KINDS,
        *_OPENINGS,
        *TONICS,
        *_OTHER_WORDS,
        "played on",
        "the key of",
    ]
    for group in (INSTRUMENT_NAMES, _TEMPO_PHRASES, _MODE_PHRASES):
        all_phrases += [phrase for phrases in group.values() for phrase in phrases]
    words = {word for phrase in all_phrases for word in re.findall(r"[A-Za-z][A-Za-z-]*", phrase)}
    words |= {word[0].upper() + word[1:] for word in words}  # the first word of a sentence
    return sorted(words | {str(bpm) for bpm in range(60, 181)} | {",", ".", ";"})


def _draw_one(choices: tuple[str, ...], rng: np.random.Generator) -> str:
    return choices[rng.integers(len(choices))]
