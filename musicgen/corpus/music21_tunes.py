"""Reads public-domain tunes from the corpus in the package music21.

Its collections are Bach's chorales, Ryan's Mammoth Collection and the Essen folk songs. Reading takes a minute or two,
so the tunes are kept as JSON.
"""

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from musicgen.corpus.score import Mode
from musicgen.corpus.tune import Tune
from musicgen.errors import JobError

_MIN_BARS, _MAX_BARS = 6, 64  # of a tune; longer tunes are cut
_METRES = {"4/4": 4, "2/2": 4, "2/4": 2, "3/4": 3}


def load_tunes(cache: Path, count: int, on_message: Callable[[str], None] = print) -> list[Tune]:
    """Load `count` tunes of all three collections from `cache`, a JSON file that is written if it is missing.

    Raises JobError if music21 is not installed.
    """
    if cache.is_file():
        saved = json.loads(cache.read_text())
        if saved["count"] == count:
            return [Tune.from_json(values) for values in saved["tunes"]]
    on_message(f"reading {count} tunes out of music21's corpus (a minute or two; kept in {cache.name})")
    tunes = read_tunes(count)
    cache.parent.mkdir(parents=True, exist_ok=True)
    partial_path = cache.with_suffix(f".{os.getpid()}")
    partial_path.write_text(json.dumps({"count": count, "tunes": [tune.to_json() for tune in tunes]}))
    partial_path.replace(cache)
    return tunes


def read_tunes(count: int) -> list[Tune]:
    """Read `count` tunes from music21's corpus, always the same. Raises JobError if music21 is not installed."""
    try:
        from music21 import corpus  # noqa: F401
    except ImportError:
        raise JobError(
            "real tunes need music21; install the extra: pip install '.[train]', or ask for no tunes"
        ) from None
    tunes_by_name: dict[str, Tune] = {}
    for read_collection, share in ((_read_bach, 0.25), (_read_ryan, 0.4), (_read_essen, 0.35)):
        tunes_wanted = len(tunes_by_name) + max(round(count * share), 1)
        for tune in read_collection():
            tunes_by_name.setdefault(tune.name, tune)
            if len(tunes_by_name) >= tunes_wanted:
                break
    return list(tunes_by_name.values())[:count]


def _collection_folder(name: str) -> Path:
    from music21 import corpus

    return Path(sys.modules[corpus.__name__].__file__ or "").parent / name


def _spread_order(paths: Iterable[Path]) -> list[Path]:
    """Order files so that the first ones come from the whole collection: sorted by name, every seventh first."""
    ordered = sorted(paths)
    return [path for first in range(7) for path in ordered[first::7]]


def _read_bach() -> Iterator[Tune]:
    for path in _spread_order(_collection_folder("bach").glob("bwv*.mxl")):
        yield from _read_file(path, "bach")


def _read_ryan() -> Iterator[Tune]:
    for path in _spread_order(_collection_folder("ryansMammoth").glob("*.abc")):
        # Most tunes of this collection are jigs, marked as 6/8, and are not parsed at all.
        if any(f"M:{metre}" in path.read_text(errors="replace") for metre in ("2/4", "4/4", "C", "3/4")):
            yield from _read_file(path, "ryan")


def _read_essen() -> Iterator[Tune]:
    """Yield a few tunes of each file, song by song, because music21 needs a minute for a whole file."""
    from music21 import converter

    books = []
    for path in sorted(_collection_folder("essenFolksong").glob("*.abc")):
        books.append((path, [text for text in path.read_text(errors="replace").split("\nX:") if "\nK:" in text]))
    for song_index in range(60):
        for path, songs in books:
            song = songs[song_index * 5 % len(songs)] if song_index * 5 < len(songs) else None
            if song is None or not any(f"M: {metre}\n" in song for metre in _METRES):
                continue
            try:
                parsed = converter.parseData("X:" + song.lstrip().removeprefix("X:"), format="abc")
            except Exception:  # music21 raises errors of any class for a broken song, which is left out
                continue
            if tune := _extract_tune(parsed, f"essen/{path.stem}-{song_index * 5}"):
                yield tune


def _read_file(path: Path, collection: str) -> Iterator[Tune]:
    from music21 import converter

    try:
        parsed = converter.parse(path)
    except Exception:  # music21 raises errors of any class for a broken file, which is left out
        return
    if tune := _extract_tune(parsed, f"{collection}/{path.stem}"):
        yield tune


def _extract_tune(parsed: Any, name: str) -> Tune | None:
    """Extract the top part of a parsed score from its first full bar on; None if its metre or length does not fit."""
    part = parsed.parts[0] if parsed.parts else parsed
    metres = {signature.ratioString for signature in part.recurse().getElementsByClass("TimeSignature")}
    if len(metres) != 1 or (metre := metres.pop()) not in _METRES:
        return None
    bars = list(part.getElementsByClass("Measure"))
    if not bars:
        return None
    beats = _METRES[metre]
    quarters = 2 * beats if metre == "2/2" and bars[-1].barDuration.quarterLength > 4 else beats
    start_offset = next(
        (beats_per_bar.offset for beats_per_bar in bars if beats_per_bar.duration.quarterLength >= quarters - 1e-6),
        None,
    )
    if start_offset is None:
        return None
    end_offset = start_offset + quarters * _MAX_BARS
    notes: list[tuple[float, float, int]] = []
    for element in part.flatten().notes:
        onset, duration = float(element.offset - start_offset), float(element.duration.quarterLength)
        if duration <= 0 or onset < 0 or element.offset >= end_offset:
            continue
        pitch = max(chord_note.midi for chord_note in element.pitches)
        if element.tie is not None and element.tie.type in ("stop", "continue") and notes and notes[-1][2] == pitch:
            notes[-1] = (notes[-1][0], notes[-1][1] + duration, pitch)
        elif not notes or onset > notes[-1][0] + 1e-6:
            notes.append((onset, duration, pitch))
    if not notes or notes[-1][0] < quarters * _MIN_BARS:
        return None
    if len(notes) / notes[-1][0] > 2.6:  # mostly sixteenths, so the eighth is taken as the beat
        notes, quarters = [(2 * onset, 2 * duration, pitch) for onset, duration, pitch in notes], 2 * quarters
    if len({pitch for _, _, pitch in notes}) < 4:
        return None
    analyzed_key = parsed.analyze("key")
    mode: Mode = "minor" if analyzed_key.mode == "minor" else "major"
    beats_per_bar = 3 if quarters in (3, 6) else 4 if quarters % 4 == 0 else 2
    rounded = tuple((round(onset, 4), round(duration, 4), pitch) for onset, duration, pitch in notes)
    return Tune(name, analyzed_key.tonic.pitchClass, mode, beats_per_bar, rounded)
