"""Public-domain tunes out of the corpus that ships inside the package music21: Bach chorales, Ryan's Mammoth
Collection, Essen folk songs.

Reading them takes a minute or two, so what was read is kept as JSON.
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

_BARS = (6, 64)  # of a tune; longer ones are cut
_METRES = {"4/4": 4, "2/2": 4, "2/4": 2, "3/4": 3}


def load_tunes(cache: Path, count: int, on_message: Callable[[str], None] = print) -> list[Tune]:
    """`count` tunes of all three collections, from `cache` (a JSON file, written if it is not there).

    Raises JobError without music21.
    """
    if cache.is_file():
        known = json.loads(cache.read_text())
        if known["count"] == count:
            return [Tune.from_json(values) for values in known["tunes"]]
    on_message(f"reading {count} tunes out of music21's corpus (a minute or two; kept in {cache.name})")
    tunes = read_tunes(count)
    cache.parent.mkdir(parents=True, exist_ok=True)
    part = cache.with_suffix(f".{os.getpid()}")
    part.write_text(json.dumps({"count": count, "tunes": [tune.to_json() for tune in tunes]}))
    part.replace(cache)
    return tunes


def read_tunes(count: int) -> list[Tune]:
    """`count` tunes from music21's corpus, always the same. Raises JobError if music21 is not installed."""
    try:
        from music21 import corpus  # noqa: F401
    except ImportError:
        raise JobError(
            "real tunes need music21; install the extra: pip install 'musicgen-batch[train]', or ask for no tunes"
        ) from None
    found: dict[str, Tune] = {}
    for read, share in ((_read_bach, 0.25), (_read_ryan, 0.4), (_read_essen, 0.35)):
        wanted = len(found) + max(round(count * share), 1)
        for tune in read():
            found.setdefault(tune.name, tune)
            if len(found) >= wanted:
                break
    return list(found.values())[:count]


def _collection_folder(name: str) -> Path:
    from music21 import corpus

    return Path(sys.modules[corpus.__name__].__file__ or "").parent / name


def _spread_order(paths: Iterable[Path]) -> list[Path]:
    """Files in an order that takes from the whole collection: sorted by name, every seventh first."""
    ordered = sorted(paths)
    return [path for first in range(7) for path in ordered[first::7]]


def _read_bach() -> Iterator[Tune]:
    for path in _spread_order(_collection_folder("bach").glob("bwv*.mxl")):
        yield from _read_file(path, "bach")


def _read_ryan() -> Iterator[Tune]:
    for path in _spread_order(_collection_folder("ryansMammoth").glob("*.abc")):
        # Jigs are in 6/8 and marked so: not parsed at all.
        if any(f"M:{metre}" in path.read_text(errors="replace") for metre in ("2/4", "4/4", "C", "3/4")):
            yield from _read_file(path, "ryan")


def _read_essen() -> Iterator[Tune]:
    """A few tunes of each file; each file is cut up first, for a whole one takes music21 a minute."""
    from music21 import converter

    books = []
    for path in sorted(_collection_folder("essenFolksong").glob("*.abc")):
        books.append((path, [text for text in path.read_text(errors="replace").split("\nX:") if "\nK:" in text]))
    for place in range(60):
        for path, songs in books:
            song = songs[place * 5 % len(songs)] if place * 5 < len(songs) else None
            if song is None or not any(f"M: {metre}\n" in song for metre in _METRES):
                continue
            try:
                parsed = converter.parseData("X:" + song.lstrip().removeprefix("X:"), format="abc")
            except Exception:  # music21 raises whatever it met; one song less
                continue
            if tune := _extract_tune(parsed, f"essen/{path.stem}-{place * 5}"):
                yield tune


def _read_file(path: Path, collection: str) -> Iterator[Tune]:
    from music21 import converter

    try:
        parsed = converter.parse(path)
    except Exception:  # music21 raises whatever it met; one file less
        return
    if tune := _extract_tune(parsed, f"{collection}/{path.stem}"):
        yield tune


def _extract_tune(parsed: Any, name: str) -> Tune | None:
    """The top part of what music21 read, from its first full bar; None if its metre or key is not for us."""
    part = parsed.parts[0] if parsed.parts else parsed
    metres = {signature.ratioString for signature in part.recurse().getElementsByClass("TimeSignature")}
    if len(metres) != 1 or (metre := metres.pop()) not in _METRES:
        return None
    bars = list(part.getElementsByClass("Measure"))
    if not bars:
        return None
    beats = _METRES[metre]
    quarters = 2 * beats if metre == "2/2" and bars[-1].barDuration.quarterLength > 4 else beats
    start = next((bar.offset for bar in bars if bar.duration.quarterLength >= quarters - 1e-6), None)
    if start is None:
        return None
    end = start + quarters * _BARS[1]
    notes: list[tuple[float, float, int]] = []
    for element in part.flatten().notes:
        onset, duration = float(element.offset - start), float(element.duration.quarterLength)
        if duration <= 0 or onset < 0 or element.offset >= end:
            continue
        pitch = max(p.midi for p in element.pitches)
        if element.tie is not None and element.tie.type in ("stop", "continue") and notes and notes[-1][2] == pitch:
            notes[-1] = (notes[-1][0], notes[-1][1] + duration, pitch)
        elif not notes or onset > notes[-1][0] + 1e-6:
            notes.append((onset, duration, pitch))
    if not notes or notes[-1][0] < quarters * _BARS[0]:
        return None
    if len(notes) / notes[-1][0] > 2.6:  # sixteenths all the way: the eighth is the beat
        notes, quarters = [(2 * onset, 2 * duration, pitch) for onset, duration, pitch in notes], 2 * quarters
    if len({pitch for _, _, pitch in notes}) < 4:
        return None
    found = parsed.analyze("key")
    mode: Mode = "minor" if found.mode == "minor" else "major"
    bar = 3 if quarters in (3, 6) else 4 if quarters % 4 == 0 else 2
    rounded = tuple((round(onset, 4), round(duration, 4), pitch) for onset, duration, pitch in notes)
    return Tune(name, found.tonic.pitchClass, mode, bar, rounded)
