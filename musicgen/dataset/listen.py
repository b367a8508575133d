"""Writes a page to listen to a dataset: `listen.html` with a player and a spectrogram for each clip.

The page is written to the dataset's own folder or, for a dataset in a bucket, to a folder that the user names. The
dataset itself is not changed: `verify` and `load_dataset` ignore the added files.
"""

import hashlib
import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import PurePath
from urllib.parse import quote

from musicgen.audio.fetch import fetch_audio
from musicgen.audio.spectrogram import PIXELS, draw_spectrogram
from musicgen.dataset import paths
from musicgen.dataset.clip_audio import decode_clip
from musicgen.dataset.clip_selection import SelectedClip, select_clips
from musicgen.dataset.page import PAGE_MARK, ClipCard, render_page
from musicgen.dataset.reader import Dataset, read_audio_bytes
from musicgen.errors import JobError, RowError, StoreError
from musicgen.storage import Store, open_store
from musicgen.value_types import TableRow

_LONGEST_FACT = 200  # characters of a carried value


@dataclass(frozen=True, slots=True)
class ListenPage:
    """The page's path, the number of clips on it and in the dataset, and the number of clips that cannot be read."""

    path: str
    clips: int
    dataset_clips: int
    faults: int


def write_page(dataset: Dataset, folder: str | None = None, clips: int = 100, where: str | None = None) -> ListenPage:
    """Write the page of at most `clips` clips to `folder`, by default the dataset's own; it replaces a page of ours.

    The clips of the newest run come first; `where` is a condition on the index's columns (see `select_clips`).
    In the dataset's own folder a clip that has a file is linked; every other clip is copied next to the page. A clip
    whose audio is missing or damaged has a card with the reason. Raises `JobError` if `folder` is not a local folder or
    matplotlib is not installed or another page is in the way, `StoreError` for a dataset without clips.
    """
    if find_spec("matplotlib") is None:
        raise JobError(
            "the pictures need matplotlib: pip install '.[listen]' in the checkout, or pip install matplotlib"
        )
    target = dataset.store if folder is None else open_store(folder)
    if target.location.scheme != "file":
        problem = "is in a bucket" if folder is None else "is no folder"
        raise JobError(
            f"{target.uri} {problem}, and the page is to be opened in a browser; say where to write it: --output FOLDER"
        )
    _refuse_foreign_page(target)
    dataset_clips = len(dataset)
    if not dataset_clips:
        raise StoreError(f"{dataset.uri} has no clips to listen to yet; `musicgen status` says how far its runs are")
    cards = [_make_card(dataset, target, clip) for clip in select_clips(dataset, clips, where)]
    if not cards:
        raise JobError(f"no clip of {dataset.uri} meets the condition --where {where!r}")
    title = PurePath(dataset.uri).name or dataset.uri
    target.write(paths.LISTEN, render_page(title, cards, dataset_clips, PIXELS).encode())
    return ListenPage(target.join(paths.LISTEN), len(cards), dataset_clips, sum(bool(card.fault) for card in cards))


def _refuse_foreign_page(target: Store) -> None:
    """Raise `JobError` if the folder has a page without our mark: somebody else's, or one of release 0.1.0."""
    try:
        page = target.read(paths.LISTEN)
    except FileNotFoundError:
        return
    if PAGE_MARK.encode() not in page:
        raise JobError(
            f"{target.join(paths.LISTEN)} was not written by this release, so it is not written over; delete it or "
            "move it away, or choose another folder: --output FOLDER"
        )


def _make_card(dataset: Dataset, target: Store, clip: SelectedClip) -> ClipCard:
    row = clip.row
    description = (row["prompt"] or "", row["duration_s"], _describe_clip(clip))
    try:
        content = read_audio_bytes(dataset.store, row)
        audio, sample_rate = decode_clip(row, content)
        if hashlib.sha256(content).hexdigest() != row["audio_sha256"]:  # a link may lead out of a foreign dataset
            raise ValueError("it is not the file that the index says")
    except (FileNotFoundError, ValueError) as error:
        reason = (
            "its audio is not there" if isinstance(error, FileNotFoundError) else f"its audio cannot be read: {error}"
        )
        return ClipCard(*description, fault=f"{reason}; `musicgen verify` says what else is wrong")
    file_name = quote(row["key"], safe="")  # a key is a hash, but a forged one must not name another folder
    picture_path = f"{paths.SPECTROGRAMS}/{file_name}.png"
    target.write(picture_path, draw_spectrogram(audio, sample_rate))
    given = _copy_melody(target, row)
    if dataset.info.layout == "files" and target.uri == dataset.uri:
        return ClipCard(*description, row["audio"], picture_path, melody=given)
    copy_path = f"{paths.CLIPS}/{file_name}.{dataset.info.format}"
    target.write(copy_path, content)
    return ClipCard(*description, copy_path, picture_path, melody=given)


def _copy_melody(target: Store, row: TableRow) -> str | None:
    """Copy the melody that the clip was given beside the page; None if it had none, or it is gone or was changed."""
    uri, sha256 = row["melody"], row["melody_sha256"]
    if not uri or not sha256:
        return None
    path = f"{paths.CLIPS}/melody-{quote(sha256, safe='')}{quote(PurePath(uri).suffix, safe='.')}"
    if not target.exists(path):
        try:
            with fetch_audio(uri, sha256=sha256) as melody:
                target.write(path, melody.file.read())
        except (RowError, StoreError):
            return None
    return path


def _describe_clip(clip: SelectedClip) -> list[tuple[str, str]]:
    """Return the labeled properties to show next to a clip, without those that it does not have."""
    row = clip.row
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
        "run": row["run"],
        "key": row["key"],
    }
    # A carried column may be named like a fact, "length"; both are shown.
    carried = [(name, value if value is None else _to_text(value)) for name, value in clip.carried.items()]
    return [(label, str(value)) for label, value in [*facts.items(), *carried] if value not in (None, "")]


def _to_text(value: object) -> str:
    """Return a carried value for the page, cut if it is long."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST_FACT else f"{text[: _LONGEST_FACT - 4]} ..."
