"""A page to listen to a dataset: `listen.html` with a player and a spectrogram for each clip.

The page lies in the dataset's own folder or, for a dataset in a bucket, in a folder of the user's. Nothing of the
dataset is changed: neither `verify` nor `load_dataset` looks at what is added.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

from musicgen.audio import decode_audio
from musicgen.audio.spectrogram import PIXELS, draw_spectrogram
from musicgen.dataset import paths
from musicgen.dataset.page import ClipCard, render_page
from musicgen.dataset.reader import Dataset, read_audio
from musicgen.errors import JobError, StoreError
from musicgen.storage import Store, open_store
from musicgen.storage.parquet_reader import ParquetReader

_AT_ONCE = 16  # rows read at a time: with layout parquet they hold the audio


@dataclass(frozen=True, slots=True)
class ListenPage:
    """What was written: the page's path, the clips on it, the dataset's clips, and the clips that could not be read."""

    path: str
    clips: int
    whole: int
    faults: int


def write_page(dataset: Dataset, folder: str | None = None, clips: int = 100) -> ListenPage:
    """Write the page of the first `clips` clips to `folder`, by default the dataset's own; it replaces what was there.

    In the dataset's own folder a clip with a file of its own is linked; every other is copied beside the page. A clip
    whose audio is gone or damaged has a card that says so. Raises `JobError` for a folder that is none or without
    matplotlib, `StoreError` for a dataset without clips.
    """
    if find_spec("matplotlib") is None:
        raise JobError(
            "the pictures need matplotlib: pip install 'musicgen-batch[listen]' (from a checkout: '.[listen]')"
        )
    target = dataset.store if folder is None else open_store(folder)
    if target.location.scheme != "file":
        what = "is in a bucket" if folder is None else "is no folder"
        raise JobError(
            f"{target.uri} {what}, and the page is to be opened in a browser; say where to write it: --output FOLDER"
        )
    whole = len(dataset)
    if not whole:
        raise StoreError(f"{dataset.uri} has no clips to listen to yet; `musicgen status` says how far its runs are")
    cards = [_card(dataset, target, row) for row in _rows(dataset, clips)]
    title = PurePath(dataset.uri).name or dataset.uri
    target.write(paths.LISTEN, render_page(title, cards, whole, PIXELS).encode())
    return ListenPage(target.join(paths.LISTEN), len(cards), whole, sum(bool(card.fault) for card in cards))


def _rows(dataset: Dataset, count: int) -> Iterator[dict[str, Any]]:
    """The first rows of the index, audio included and codes left out, without reading more of it than that takes."""
    for path in dataset.parts():
        with dataset.store.open(path) as file:
            part = ParquetReader(file)
            columns = [name for name in part.schema_arrow.names if name != "codes"]
            for batch in part.iter_batches(min(_AT_ONCE, count), columns=columns):
                yield from (rows := batch.to_pylist()[:count])
                count -= len(rows)
                if not count:
                    return


def _card(dataset: Dataset, target: Store, row: dict[str, Any]) -> ClipCard:
    about = (row["prompt"] or "", row["duration_s"], _facts(row))
    try:
        data = read_audio(dataset.store, row)
        audio, rate = decode_audio(data)
    except (FileNotFoundError, ValueError) as error:
        reason = (
            "its audio is not there" if isinstance(error, FileNotFoundError) else f"its audio cannot be read: {error}"
        )
        return ClipCard(*about, fault=f"{reason}; `musicgen verify` says what else is wrong")
    name = quote(row["key"], safe="")  # a key is a hash; a forged one is still one file's name
    picture = f"{paths.SPECTROGRAMS}/{name}.png"
    target.write(picture, draw_spectrogram(audio, rate))
    if dataset.info.layout == "files" and target.uri == dataset.uri:
        return ClipCard(*about, row["audio"], picture)
    copy = f"{paths.CLIPS}/{name}.{dataset.info.format}"
    target.write(copy, data)
    return ClipCard(*about, copy, picture)


def _facts(row: dict[str, Any]) -> list[tuple[str, str]]:
    """What one wants to know while listening; what a clip does not have is left out."""
    loudness = row["loudness_lufs"]
    marks = [name for name in ("clipped", "silent") if row[name]]
    facts = {
        "id": row["id"],
        "sample": row["sample"] or None,
        "length": f"{row['duration_s']:g} s",
        "seed": row["seed"],
        "guidance": f"{row['guidance_scale']:g}",
        "melody": row["melody"],
        "continues": row["continuation"],
        "loudness": None if loudness is None else f"{loudness:.1f} LUFS",
        "levels": ", ".join(marks) or None,
        "model": row["model"],
        "key": row["key"],
    }
    return [(label, str(value)) for label, value in facts.items() if value is not None]
