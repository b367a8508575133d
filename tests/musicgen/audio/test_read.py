"""Audio of any allowed kind decodes; anything hostile is refused with its reason, in bounded time and memory."""

import io
import struct
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from musicgen.audio.read import decode_excerpt
from musicgen.errors import RowError
from tests.musicgen.conditioning import hostile
from tests.musicgen.conditioning.hostile import BOMB_HZ, forge_length
from tests.musicgen.conditioning.music import decode_bytes, encoded, tune

RATE = 32_000


def reason(data: bytes, **options) -> str:
    started = time.monotonic()
    with pytest.raises(RowError) as caught:
        decode_bytes(data, **options)
    assert caught.value.error_class == "melody"
    assert time.monotonic() - started < 5
    return str(caught.value)


@pytest.mark.parametrize(("kind", "tolerance"), [("WAV", 1e-4), ("FLAC", 1e-4), ("OGG", 0.1), ("MP3", 0.1)])
def test_every_kind_gives_the_sound_that_went_in(kind: str, tolerance: float) -> None:
    audio = tune(2.0)
    found = decode_bytes(encoded(audio, kind=kind))
    assert found.shape == (1, len(audio))
    assert found.dtype == np.float32
    assert np.abs(found[0] - audio).max() < tolerance


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000, 192_000])
def test_rates_are_converted(rate: int) -> None:
    time_in, time_out = np.arange(rate * 2) / rate, np.arange(RATE * 2) / RATE
    found = decode_bytes(encoded((0.5 * np.sin(2 * np.pi * 440 * time_in)).astype(np.float32), rate))
    assert abs(found.shape[1] - 2 * RATE) <= 1
    middle = slice(RATE // 2, 3 * RATE // 2)  # away from the filter's ends
    assert np.abs(found[0, middle] - 0.5 * np.sin(2 * np.pi * 440 * time_out[middle])).max() < 2e-3


def test_channels() -> None:
    left, right = tune(1.0), tune(1.0, notes=(48, 50))
    both = encoded(np.stack([left, right], axis=1), subtype="FLOAT")
    assert np.allclose(decode_bytes(both)[0], (left + right) / 2, atol=1e-6)
    assert np.array_equal(decode_bytes(both, channels=2), np.stack([left, right]))
    assert np.array_equal(decode_bytes(encoded(left, subtype="FLOAT"), channels=2), np.stack([left, left]))


def test_a_long_file_is_cut_to_what_is_needed() -> None:
    audio = tune(20.0, rate=16_000)
    data = encoded(audio, 16_000, "FLAC")
    short, long = decode_bytes(data, seconds=3.0), decode_bytes(data, seconds=19.0)
    assert short.shape == (1, 3 * RATE)
    assert np.allclose(short[0, : 2 * RATE], long[0, : 2 * RATE], atol=1e-6)


def test_only_what_is_needed_is_decoded() -> None:
    class Counting(io.BytesIO):
        read_bytes = 0

        def readinto(self, buffer):
            count = super().readinto(buffer)
            self.read_bytes += count
            return count

    file = Counting(encoded(np.random.default_rng(0).uniform(-1, 1, 1_500_000).astype(np.float32)))
    decode_excerpt(file, sample_rate=RATE, seconds=1.0)
    assert file.read_bytes < 500_000


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
@pytest.mark.parametrize("share", [0.6, 0.001])
def test_truncated_files(kind: str, share: float) -> None:
    data = encoded(tune(10.0), kind=kind)
    message = reason(data[: max(20, int(share * len(data)))])
    assert "cut short" in message or "cannot be decoded" in message or "not a wav" in message


def test_a_truncated_mp3_is_noticed_even_where_the_sound_would_suffice() -> None:
    data = encoded(tune(20.0), kind="MP3")
    assert "cut short: its header announces" in reason(data[: len(data) * 3 // 4], seconds=5.0)


def test_an_mp3_with_tags_around_it() -> None:
    data = encoded(tune(2.0), kind="MP3")
    tagged = b"ID3\x04\0\0\0\0\x02\0" + bytes(256) + data + b"TAG" + bytes(125)
    assert decode_bytes(tagged).shape == decode_bytes(data).shape


def test_files_that_are_not_audio() -> None:
    assert "is not a wav, flac, mp3 or ogg file" in reason(b"once upon a time\n" * 1000)
    assert "is not a wav" in reason(("once upon a time\n" * 1000).encode("utf-16"))
    assert "is not a wav" in reason(b"")
    assert "is not a wav" in reason(b"PK\x03\x04" + bytes(1000))
    assert "is not a wav" in reason(encoded(tune(0.5), kind="AIFF"))
    assert "cannot be decoded as flac" in reason(b"fLaC" + np.random.default_rng(0).bytes(10_000))
    assert "cannot be decoded as ogg" in reason(b"OggS" + np.random.default_rng(1).bytes(10_000))
    assert "wav" in reason(b"RIFF\x24\0\0\0WAVE" + np.random.default_rng(2).bytes(10_000))


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
def test_damaged_files_are_sound_or_refused(kind: str) -> None:
    """A hundred damages of the kinds that storage and attackers make: bytes changed, cut out, put in."""
    random = np.random.default_rng(7)
    whole = encoded(tune(2.0), kind=kind)
    for _ in range(100):
        data = bytearray(whole)
        for _ in range(int(random.choice([1, 3, 30]))):
            at = int(random.integers(min(len(data), int(random.choice([64, 512, len(data)])))))
            match random.integers(4):
                case 0:
                    data[at] = random.integers(256)
                case 1:
                    data[at : at + 4] = b"\xff\xff\xff\xff"
                case 2:
                    del data[at : at + int(random.integers(1, 500))]
                case 3:
                    data[at:at] = random.bytes(int(random.integers(1, 100)))
        with suppress(RowError):
            found = decode_bytes(bytes(data))
            assert found.shape[0] == 1
            assert found.shape[1] <= 30 * RATE
            assert np.isfinite(found).all()


def test_unusual_channels_rates_and_lengths() -> None:
    assert "9 channels, and at most 8" in reason(encoded(np.zeros((1000, 9), np.float32), 192_000))
    assert "sample rate of 400000 Hz" in reason(encoded(np.zeros(1000, np.float32), 400_000))
    assert "sample rate of 100 Hz" in reason(encoded(np.zeros(1000, np.float32), 100))
    assert "no samples" in reason(encoded(np.zeros(0, np.float32)))
    for bad in (np.nan, np.inf):
        assert "not finite" in reason(encoded(np.array([0, bad, 0], np.float32), subtype="FLOAT"))
    forged = bytearray(encoded(tune(0.5)))
    forged[22:24] = struct.pack("<H", 60_000)
    assert "cannot be decoded" in reason(bytes(forged))


def test_ten_hours_and_bombs() -> None:
    bomb = hostile.bomb()
    assert len(bomb) < 36_000 * BOMB_HZ * 2 / 100
    assert "is 10.0 h long, and at most 30 min are allowed" in reason(bomb)
    assert "does not say how long it is" in reason(forge_length(bomb, 0))
    # A header that claims less than there is gets what it claims, no more.
    assert decode_bytes(forge_length(bomb, BOMB_HZ * 20), seconds=30).shape == (1, 20 * RATE)
    assert "damaged or cut short" in reason(forge_length(encoded(tune(2.0, 8000), 8000, "FLAC"), 8000 * 20))


def test_memory_is_bounded(tmp_path: Path) -> None:
    """In a process of its own: ten hours that claim half an hour, decoded to the last allowed sample."""
    path = tmp_path / "bomb.flac"
    path.write_bytes(forge_length(hostile.bomb(), BOMB_HZ * 1799))
    code = """
import resource, sys
from musicgen.audio.read import decode_excerpt
with open(sys.argv[1], "rb") as file:
    decode_excerpt(file, sample_rate=32000, seconds=1.0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    audio = decode_excerpt(file, sample_rate=32000, seconds=60.0)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, audio.nbytes // 1024)
"""
    out = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    ).stdout.split()
    grown, result = map(int, out)
    assert grown < 3 * result + 10_000  # KB


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [32_000, 44_100])
@pytest.mark.parametrize("level", [3e38, 1e20, 2e3])
def test_levels_whose_sums_overflow_are_refused(rate: int, channels: int, level: float) -> None:
    """Each sample of such a float file is finite; the mean of two, or a resampler's sum, is not."""
    loud = np.zeros((rate, 2), np.float32)
    loud[rate // 2 :] = level
    for sign in (1, -1):
        assert "full scale" in reason(encoded(sign * loud, rate, subtype="FLOAT"), sample_rate=RATE, channels=channels)


def test_high_but_allowed_levels_are_decoded() -> None:
    square = np.where(np.arange(44_100) % 100 < 50, 999, -999).astype(np.float32)
    assert np.isfinite(decode_bytes(encoded(square, 44_100, subtype="FLOAT"))).all()
