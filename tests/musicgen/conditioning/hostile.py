"""Files that somebody may name as a melody to bring a run down, by name, and what their failure must say."""

import io
import struct
from functools import lru_cache

import numpy as np
import soundfile

from tests.musicgen.conditioning.music import encoded, tune

BOMB_HZ = 2000
# Places that no manifest in a bucket may name.
PLACES = {
    "file:///etc/passwd": "outside the manifest's own folder",
    "../../x.wav": "not a path inside a store",
    "http://10.0.0.1/a.wav": "http:// is not allowed",
    "http://169.254.169.254/latest/meta-data": "http:// is not allowed",
}


@lru_cache(maxsize=1)
def bomb() -> bytes:
    """Ten hours of silence as FLAC, a hundred times smaller than its samples."""
    block = np.zeros(BOMB_HZ * 1200, np.int16)
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", BOMB_HZ, 1, format="FLAC") as sound:
        for _ in range(30):
            sound.write(block)
    return file.getvalue()


def forge_length(flac: bytes, frames: int) -> bytes:
    """The STREAMINFO block's total (36 bits) changed; RFC 9639, section 8.2."""
    data = bytearray(flac)
    data[21] = data[21] & 0xF0 | frames >> 32
    data[22:26] = struct.pack(">I", frames & 0xFFFFFFFF)
    return bytes(data)


def _ten_hours_in_a_header() -> bytes:
    """A wav of a second whose header announces ten hours."""
    data = bytearray(encoded(np.zeros(8000, np.float32), 8000))
    size = 36_000 * 8000 * 2
    data[4:8], data[40:44] = struct.pack("<I", size + 36), struct.pack("<I", size)
    return bytes(data)


@lru_cache(maxsize=1)
def files() -> dict[str, tuple[bytes, str]]:
    """File name -> content, and the words that tell why it is refused."""
    return {
        "text.wav": (b"RIFF is what I am not, really" * 50, "is not a wav, flac, mp3 or ogg file"),
        "empty.wav": (b"", "is empty (0 bytes)"),
        "cut.mp3": (encoded(tune(2.0), kind="MP3")[:5000], "cut short"),
        "channels.wav": (encoded(np.zeros((19_200, 9), np.float32), 192_000), "has 9 channels"),
        "ten hours.flac": (bomb(), "is 10.0 h long, and at most 30 min are allowed"),
        "ten hours.wav": (_ten_hours_in_a_header(), "is cut short: its header announces 576000044 bytes"),
        "endless.flac": (forge_length(bomb(), 0), "does not say how long it is"),
        "longer than it is.flac": (
            forge_length(encoded(tune(2.0, 8000), 8000, "FLAC"), 8000 * 20),
            "damaged or cut short",
        ),
        "archive.wav": (b"PK\x03\x04" + bytes(1000), "is not a wav, flac, mp3 or ogg file"),
    }
