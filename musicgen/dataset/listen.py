"""Writes a page to listen to a dataset: `listen.html` with a player and a spectrogram for each clip.

The page is written to the dataset's own folder or, for a dataset in a bucket, to a folder that the user names. The
dataset itself is not changed: `verify` and `load_dataset` ignore the added files.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import PurePath
from urllib.parse import quote

from musicgen.audio import decode_audio
from musicgen.audio.spectrogram import PIXELS, draw_spectrogram
from musicgen.dataset import paths
from musicgen.dataset.page import ClipCard, render_page
from musicgen.dataset.reader import Dataset, read_audio_bytes
from musicgen.errors import JobError, StoreError
from musicgen.storage import Store, open_store
from musicgen.storage.parquet_reader import ParquetReader
from musicgen.value_types import TableRow

_ROWS_AT_ONCE = 16  # read at a time; few, because with `layout: parquet` rows hold the audio


@dataclass(frozen=True, slots=True)
class ListenPage:
    """The page's path, the number of clips on it and in the dataset, and the number of clips that cannot be read."""

    path: str
    clips: int
    dataset_clips: int
    faults: int


def write_page(dataset: Dataset, folder: str | None = None, clips: int = 100) -> ListenPage:
    """Write the page of the first `clips` clips to `folder`, by default the dataset's own; it replaces an earlier page.

    In the dataset's own folder a clip that has a file is linked; every other clip is copied next to the page. A clip
    whose audio is missing or damaged has a card with the reason. Raises `JobError` if `folder` is not a local folder or
    matplotlib is not installed, `StoreError` for a dataset without clips.
    """
    if find_spec("matplotlib") is None:
        raise JobError(
            "the pictures need matplotlib: pip install 'musicgen-batch[listen]' (from a checkout: '.[listen]')"
        )
    target = dataset.store if folder is None else open_store(folder)
    if target.location.scheme != "file":
        problem = "is in a bucket" if folder is None else "is no folder"
        raise JobError(
            f"{target.uri} {problem}, and the page is to be opened in a browser; say where to write it: --output FOLDER"
        )
    dataset_clips = len(dataset)
    if not dataset_clips:
        raise StoreError(f"{dataset.uri} has no clips to listen to yet; `musicgen status` says how far its runs are")
    cards = [_make_card(dataset, target, row) for row in _read_first_rows(dataset, clips)]
    title = PurePath(dataset.uri).name or dataset.uri
    target.write(paths.LISTEN, render_page(title, cards, dataset_clips, PIXELS).encode())
    return ListenPage(target.join(paths.LISTEN), len(cards), dataset_clips, sum(bool(card.fault) for card in cards))


def _read_first_rows(dataset: Dataset, count: int) -> Iterator[TableRow]:
    """Yield the first rows of the index, with audio and without codes, reading no further than needed."""
    for part_path in dataset.parts():
        with dataset.store.open(part_path) as file:
            index_part = ParquetReader(file)
            columns = [name for name in index_part.schema_arrow.names if name != "codes"]
            for batch in index_part.iter_batches(min(_ROWS_AT_ONCE, count), columns=columns):
                yield from (rows := batch.to_pylist()[:count])
                count -= len(rows)
                if not count:
                    return


def _make_card(dataset: Dataset, target: Store, row: TableRow) -> ClipCard:
    description = (row["prompt"] or "", row["duration_s"], _describe_clip(row))
    try:
        content = read_audio_bytes(dataset.store, row)
        audio, sample_rate = decode_audio(content)
    except (FileNotFoundError, ValueError) as error:
        reason = (
            "its audio is not there" if isinstance(error, FileNotFoundError) else f"its audio cannot be read: {error}"
        )
        return ClipCard(*description, fault=f"{reason}; `musicgen verify` says what else is wrong")
    file_name = quote(row["key"], safe="")  # a key is a hash, but a forged one must not name another folder
    picture_path = f"{paths.SPECTROGRAMS}/{file_name}.png"
    target.write(picture_path, draw_spectrogram(audio, sample_rate))
    if dataset.info.layout == "files" and target.uri == dataset.uri:
        return ClipCard(*description, row["audio"], picture_path)
    copy_path = f"{paths.CLIPS}/{file_name}.{dataset.info.format}"
    target.write(copy_path, content)
    return ClipCard(*description, copy_path, picture_path)


def _describe_clip(row: TableRow) -> list[tuple[str, str]]:
    """Return the labeled properties to show next to a clip, without those that it does not have."""
    loudness = row["loudness_lufs"]
    level_marks = [name for name in ("clipped", "silent") if row[name]]
    facts = {
        "id": row["id"],
        "sample": row["sample"] or None,
        "length": f"{row['duration_s']:g} s",
        "seed": row["seed"],
        "guidance": f"{row['guidance_scale']:g}",
        "melody": row["melody"],
        "continues": row["continuation"],
        "loudness": None if loudness is None else f"{loudness:.1f} LUFS",
        "levels": ", ".join(level_marks) or None,
        "model": row["model"],
        "key": row["key"],
    }
    return [(label, str(value)) for label, value in facts.items() if value is not None]
