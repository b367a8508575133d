"""Encoding: the same bytes every time, and decoding gives the samples back."""

import hashlib
import io
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from musicgen.audio import FORMATS, decode_audio, encode_audio
from musicgen.audio.ogg import make_serial_reproducible, set_stream_serial
from musicgen.errors import RowError

RATE = 32000


def music(seconds: float = 1.0, channels: int = 1, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * RATE)) / RATE
    tones = sum(0.2 * np.sin(2 * np.pi * hz * time + rng.uniform(0, 6, (channels, 1))) for hz in (220, 277.2, 329.6))
    return (tones + rng.normal(0, 0.01, (channels, time.size))).astype(np.float32)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("format", ["flac", "wav"])
def test_lossless_formats_give_the_samples_back(format: str, channels: int):
    audio = music(channels=channels)
    encoded = encode_audio(audio, RATE, format)
    back, rate = decode_audio(encoded.data)
    assert rate == RATE
    assert back.shape == audio.shape
    assert np.abs(back - audio).max() <= 0.5 / 32768 + 1e-7
    samples, _ = soundfile.read(io.BytesIO(encoded.data), dtype="int16", always_2d=True)
    assert hashlib.sha256(samples.astype("<i2").tobytes()).hexdigest() == encoded.pcm_sha256
    assert hashlib.sha256(encoded.data).hexdigest() == encoded.sha256
    assert (encoded.channels, encoded.samples, encoded.duration_s) == (channels, RATE, 1.0)


@pytest.mark.parametrize("format", ["ogg", "mp3"])
def test_lossy_formats_sound_alike(format: str):
    audio = music(2.0, channels=2)
    encoded = encode_audio(audio, RATE, format)
    back, rate = decode_audio(encoded.data)
    assert rate == RATE
    assert back.shape[0] == 2
    assert abs(back.shape[1] - audio.shape[1]) / RATE < 0.1
    for channel in (0, 1):  # libsndfile's int16 path garbles stereo MP3
        assert np.corrcoef(back[channel, :60000], audio[channel, :60000])[0, 1] > 0.99
    assert encoded.pcm_sha256 == encode_audio(audio, RATE, "flac").pcm_sha256  # of the samples before encoding


def test_equal_waveforms_give_equal_bytes_in_another_process_too():
    # Ogg's serial number comes from the clock; a process of its own, a second later, shows it
    here = [encode_audio(music(0.5, channels=2), RATE, format).sha256 for format in FORMATS]
    code = (
        "import sys, time, numpy as np; time.sleep(1.1); from musicgen.audio import FORMATS, encode_audio;"
        "audio = np.frombuffer(sys.stdin.buffer.read(), np.float32).reshape(2, -1);"
        f"print(*[encode_audio(audio, {RATE}, format).sha256 for format in FORMATS])"
    )
    there = subprocess.run(
        [sys.executable, "-c", code], input=music(0.5, channels=2).tobytes(), capture_output=True, check=True
    )
    assert there.stdout.decode().split() == here


def test_ogg_pages_keep_valid_checksums():
    data = encode_audio(music(3.0), RATE, "ogg").data
    other = set_stream_serial(data, 12345)
    assert other != data
    assert make_serial_reproducible(other) == data
    assert decode_audio(other)[0].shape == (1, 3 * RATE)  # libogg drops pages whose checksum is wrong
    broken = bytearray(data)
    broken[len(data) // 2] ^= 0xFF
    assert set_stream_serial(bytes(broken), 0) != bytes(broken)  # the checksum covers every byte
    with pytest.raises(ValueError, match="no Ogg page"):
        set_stream_serial(b"RIFF" + data, 0)


def test_ogg_files_have_serial_numbers_of_their_own():
    """RFC 3533, section 4: streams that are joined to one file must differ in them; 0 and -1 confuse some tools."""
    files = [encode_audio(music(0.5, seed=seed), RATE, "ogg").data for seed in range(3)]
    assert len({0, 2**32 - 1, *(data[14:18] for data in files), b"\0\0\0\0"}) == 6
    assert encode_audio(music(0.5, seed=0), RATE, "ogg").data == files[0]


def test_long_vorbis_does_not_crash_libsndfile():
    encoded = encode_audio(music(60.0), RATE, "ogg")
    assert decode_audio(encoded.data)[0].shape[1] == 60 * RATE


@given(
    st.integers(0, 2**32),
    st.integers(1, 5000),
    st.sampled_from([1, 2]),
    st.floats(0, 1),
    st.sampled_from([8000, 32000, 48000]),
)
@settings(max_examples=30)
def test_samples_within_full_scale_are_exact_to_half_a_step(
    seed: int, samples: int, channels: int, scale: float, rate: int
):
    audio = (np.random.default_rng(seed).uniform(-1, 1, (channels, samples)) * scale).astype(np.float32)
    encoded = encode_audio(audio, rate)
    back, back_rate = decode_audio(encoded.data)
    assert back_rate == rate
    assert np.abs(back - np.clip(audio, -1, 32767 / 32768)).max() <= 0.5 / 32768 + 1e-7
    assert encode_audio(back, rate).pcm_sha256 == encoded.pcm_sha256  # and stays as it is from then on


def test_a_waveform_over_full_scale_is_scaled_and_marked():
    encoded = encode_audio(music() * 4, RATE)
    back, _ = decode_audio(encoded.data)
    assert encoded.clipped
    assert encoded.peak_dbfs == pytest.approx(0.0, abs=0.01)
    assert np.count_nonzero(np.abs(back) >= 32767 / 32768) <= 2  # one peak, not a plateau
    assert not encode_audio(music(), RATE).clipped


def test_full_scale_does_not_wrap():
    square = np.where(np.arange(RATE) % 64 < 32, 1.0, -1.0).astype(np.float32)[None]
    back, _ = decode_audio(encode_audio(square, RATE, "wav").data)
    assert np.array_equal(np.sign(back), np.sign(square))


def test_loudness_is_normalized_on_request():
    assert encode_audio(music(), RATE, "flac", -20.0).loudness_lufs == pytest.approx(-20.0, abs=0.1)


@pytest.mark.parametrize(
    "audio", [np.full((1, 100), np.nan), np.full((1, 100), np.inf), np.zeros((1, 0)), np.zeros(100)]
)
def test_an_invalid_waveform_is_a_failed_row(audio: np.ndarray):
    with pytest.raises(RowError) as caught:
        encode_audio(audio.astype(np.float32), RATE)
    assert caught.value.error_class == "generation"


def test_a_file_that_is_longer_than_expected_is_not_decoded() -> None:
    silence = encode_audio(np.zeros((1, 60 * RATE), np.float32), RATE).data
    assert len(silence) < 10_000
    with pytest.raises(ValueError, match=r"60\.0 s long"):
        decode_audio(silence, 3.0)


@pytest.mark.parametrize("data", [b"", b"not audio at all", encode_audio(music(), RATE).data[:20]])
def test_bytes_that_are_no_audio(data: bytes):
    with pytest.raises(ValueError, match="not decodable"):
        decode_audio(data)
