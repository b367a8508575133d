"""Compares one row of the index with its audio: presence, size, sha256, and what the samples are."""

import hashlib
from collections.abc import Iterator

import numpy as np

from musicgen.audio.encode import hash_pcm, quantize_to_int16
from musicgen.dataset.clip_audio import decode_clip
from musicgen.dataset.reader import Dataset, read_audio_bytes
from musicgen.dataset.verification_report import Fault
from musicgen.errors import StoreDenied, StoreUnavailable
from musicgen.storage.patience import SHORT_PATIENCE_S, wait_for_store
from musicgen.value_types import TableRow

CLIP_COLUMNS = (
    "key",
    "duration_s",
    "sample_rate",
    "channels",
    "audio",
    "audio_format",
    "audio_bytes",
    "audio_sha256",
    "pcm_sha256",
    "audio_offset",
)
_LOSSLESS = ("flac", "wav")
_TOLERANCE_S = {"mp3": 0.1}  # for frames of 1152 samples, and the encoder's delay


def find_object_path(row: TableRow) -> str | None:
    """Return the path of the object that holds a row's audio; None where the index holds it."""
    return row["audio"] if isinstance(row["audio"], str) else None


def check_clip(dataset: Dataset, row: TableRow, part: str, deep: bool) -> list[Fault]:
    """Return the faults of a row's audio. Raises `StoreError` if the store cannot be used, which is no fault of it."""
    location, key = find_object_path(row) or row["key"], row["key"]
    try:
        content = wait_for_store(lambda: read_audio_bytes(dataset.store, row), SHORT_PATIENCE_S)
    except FileNotFoundError:
        return [Fault("missing", location, "the audio object is missing", part, key)]
    except (StoreUnavailable, StoreDenied):
        raise
    except Exception as error:  # one unreadable object must not hide the faults of the others
        return [Fault("storage", location, f"the audio cannot be read: {error}", part, key)]
    if content is None:
        return [Fault("missing", location, "the row holds no audio", part, key)]
    if len(content) != row["audio_bytes"]:
        sizes = f"the audio has {len(content)} bytes, the index says {row['audio_bytes']}"
        return [Fault("size", location, sizes, part, key)]
    if hashlib.sha256(content).hexdigest() != row["audio_sha256"]:
        return [Fault("sha256", location, "the audio's sha256 is not the index's", part, key)]
    if not deep:
        return []
    return [Fault(kind, location, text, part, key) for kind, text in _check_samples(row, content)]


def _check_samples(row: TableRow, content: bytes) -> Iterator[tuple[str, str]]:
    """Yield the kind and the description of each fault of the decoded audio."""
    try:
        audio, sample_rate = decode_clip(row, content)
    except ValueError as error:
        yield "decode", str(error)
        return
    channels, sample_count = audio.shape
    tolerance_s = _TOLERANCE_S.get(row["audio_format"], 0.5 / row["sample_rate"])
    if sample_rate != row["sample_rate"]:
        yield "rate", f"the audio is at {sample_rate} Hz, the index says {row['sample_rate']}"
    if channels != row["channels"]:
        yield "channels", f"the audio has {channels} channels, the index says {row['channels']}"
    if abs(sample_count / sample_rate - row["duration_s"]) > tolerance_s:
        yield (
            "duration",
            f"the audio lasts {sample_count / sample_rate:.4f} s, the index says {row['duration_s']:.4f}",
        )
    if not np.isfinite(audio).all():
        yield "samples", "the audio holds NaN or infinity"
    elif row["audio_format"] in _LOSSLESS and hash_pcm(quantize_to_int16(audio)) != row["pcm_sha256"]:
        yield "samples", "the samples' sha256 is not the index's pcm_sha256"
