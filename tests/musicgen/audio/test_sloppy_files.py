"""Audio files as sloppy programs write them: what every player plays is decoded, what is cut short is refused."""

import io
import shutil
import struct
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from musicgen.audio.mpeg_frames import parse_mpeg_header
from musicgen.audio.ogg import set_stream_serial
from musicgen.errors import RowError
from tests.musicgen.conditioning.music import decode_bytes, encoded, tune

av = pytest.importorskip("av")

RATE = 32_000
SECONDS = 3.0
TUNE = tune(SECONDS)
TAG = b"ID3\x04\0\0\0\0\0\x0a" + bytes(10)


def wav(**options) -> bytes:
    return encoded(TUNE, kind="WAV", **options)


def as_format(kind: str, subtype: str | None = None) -> bytes:
    return encoded(TUNE, kind=kind, subtype=subtype)


def with_riff_size(data: bytes, size: int) -> bytes:
    return data[:4] + struct.pack("<I", size) + data[8:]


def with_data_size(data: bytes, size: int) -> bytes:
    start = data.index(b"data") + 4
    return data[:start] + struct.pack("<I", size) + data[start + 4 :]


def with_chunk(data: bytes, name: bytes, content: bytes, pad: bool = True) -> bytes:
    """The wav with another chunk before its samples."""
    start = data.index(b"data")
    return (
        data[:start] + name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2 * pad) + data[start:]
    )


def mp3(mode: str = "CONSTANT", level: float = 0.5) -> bytes:
    file = io.BytesIO()
    with soundfile.SoundFile(
        file, "w", RATE, 1, format="MP3", subtype="MPEG_LAYER_III", bitrate_mode=mode, compression_level=level
    ) as sound_file:
        sound_file.write(TUNE)
    return file.getvalue()


def without_xing(data: bytes) -> bytes:
    """The mp3 without the first frame, which says how many follow."""
    assert b"Xing" in data[:200] or b"Info" in data[:200]
    frame = parse_mpeg_header(data[:4])
    assert frame is not None
    return data[frame.size :]


def without_end_mark(data: bytes) -> bytes:
    """The Ogg stream without the bit on its last page that says that it is the last."""
    last = data.rindex(b"OggS")
    data = data[: last + 5] + bytes([data[last + 5] & ~4]) + data[last + 6 :]
    return set_stream_serial(data, 7)


def by_pyav(container: str, codec: str, seconds: float = SECONDS, rate: int = RATE, **options: str) -> bytes:
    """The tune as FFmpeg writes it."""
    path = Path(tempfile.mkdtemp(), "file")  # FFmpeg opens it twice to bring the index to the front
    samples = tune(seconds, rate)
    with av.open(str(path), "w", format=container, options=options) as output:
        stream = output.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate = rate
        resampler = av.AudioResampler(stream.format, "mono", rate, stream.codec_context.frame_size or 1024)
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            output.mux(stream.encode(piece))
        output.mux(stream.encode(None))
    content = path.read_bytes()
    shutil.rmtree(path.parent)
    return content


WAVS: dict[str, Callable[[], bytes]] = {
    "riff-size-8-too-large": lambda: with_riff_size(wav(), len(wav())),
    "riff-size-too-small": lambda: with_riff_size(wav(), 36),
    "riff-size-0": lambda: with_riff_size(wav(), 0),
    "riff-size-double": lambda: with_riff_size(wav(), 2 * len(wav())),
    "riff-size-of-a-pipe": lambda: with_riff_size(with_data_size(wav(), 0xFFFF_FFFF), 0xFFFF_FFFF),
    "data-size-counts-the-header": lambda: with_data_size(wav(), len(wav())),
    "data-size-0": lambda: with_riff_size(with_data_size(wav(), 0), 0),
    "odd-length-without-padding": lambda: with_riff_size(wav(subtype="PCM_U8")[:-1], len(wav(subtype="PCM_U8")) - 7),
    "list-chunk": lambda: with_chunk(wav(), b"LIST", b"INFOINAM\x04\0\0\0tune"),
    "broadcast-chunk": lambda: with_chunk(wav(), b"bext", bytes(602)),
    "odd-chunk": lambda: with_chunk(wav(), b"junk", b"abc"),
    "id3-chunk": lambda: with_chunk(wav(), b"id3 ", TAG),
    "chunk-behind": lambda: wav() + b"LIST\x04\0\0\0INFO",
    "junk-behind": lambda: wav() + b"\0" * 1000,
    "extensible": lambda: as_format("WAVEX"),
    "extensible-24": lambda: as_format("WAVEX", "PCM_24"),
    "extensible-float": lambda: as_format("WAVEX", "FLOAT"),
    "rf64": lambda: as_format("RF64"),
    "big-endian": lambda: soundfile_bytes(endian="BIG"),
    **{subtype: lambda subtype=subtype: wav(subtype=subtype) for subtype in ("PCM_24", "PCM_32", "FLOAT", "DOUBLE")},
    **{subtype: lambda subtype=subtype: wav(subtype=subtype) for subtype in ("PCM_U8", "ULAW", "ALAW", "IMA_ADPCM")},
}
MP3S: dict[str, Callable[[], bytes]] = {
    "padding-behind-the-tag": lambda: TAG + bytes(2048) + mp3(),
    "much-padding": lambda: TAG + bytes(100_000) + mp3(),
    "leading-junk": lambda: b"\r\nICY 200 OK\r\n\r\n" + mp3(),
    "two-tags": lambda: TAG + TAG + mp3(),
    "starts-within-a-frame": lambda: without_xing(mp3())[500:],
    "no-xing": lambda: without_xing(mp3()),
    "no-xing-variable": lambda: without_xing(mp3("VARIABLE")),
    "no-xing-last-frame-cut": lambda: without_xing(mp3())[:-50],
    "last-frame-cut": lambda: mp3()[:-50],
    "tags-behind": lambda: mp3() + b"APETAGEX" + bytes(24) + b"TAG" + bytes(125),
    "zeros-behind": lambda: mp3() + bytes(5000),
    "junk-between": lambda: without_xing(mp3()) + b"junk" * 50 + without_xing(mp3()),
    "mpeg-layer-2": lambda: by_pyav("mp2", "mp2"),
}
OGGS: dict[str, Callable[[], bytes]] = {
    "no-end-mark": lambda: without_end_mark(as_format("OGG")),
    "junk-behind": lambda: as_format("OGG") + b"TAG" + bytes(125),
    "opus": lambda: as_opus(),
    "opus-without-end-mark": lambda: without_end_mark(as_opus()),
    "flac-behind-a-tag": lambda: TAG + as_format("FLAC"),
}
PYAV: dict[str, Callable[[], bytes]] = {
    "m4a": lambda: by_pyav("ipod", "aac"),
    "m4a-index-first": lambda: by_pyav("ipod", "aac", movflags="faststart"),
    "m4a-fragments": lambda: by_pyav("mp4", "aac", movflags="frag_keyframe+empty_moov+default_base_moof"),
    "alac": lambda: by_pyav("ipod", "alac"),
    "aac": lambda: by_pyav("adts", "aac"),
    "webm": lambda: by_pyav("webm", "libopus", rate=48_000),
    "webm-of-a-browser": lambda: by_pyav("webm", "libopus", rate=48_000, live="1"),
}


def soundfile_bytes(**options) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, TUNE, RATE, format="WAV", **options)
    return file.getvalue()


def as_opus() -> bytes:
    return encoded(tune(SECONDS, 48_000), 48_000, "OGG", "OPUS")


def is_the_tune(audio: np.ndarray, seconds: float = SECONDS) -> bool:
    """Whether this is the tune, though an encoder may have shifted it by some milliseconds."""
    expected = tune(seconds)
    if audio.shape[0] != 1 or abs(audio.shape[1] - len(expected)) > 0.2 * RATE:
        return False
    size = 1 << (len(expected) + audio.shape[1]).bit_length()
    product = np.fft.irfft(np.fft.rfft(audio[0], size) * np.conj(np.fft.rfft(expected, size)))
    return float(product.max()) > 0.9 * float(np.linalg.norm(audio[0]) * np.linalg.norm(expected))


def reason(data: bytes, **options) -> str:
    with pytest.raises(RowError) as caught:
        decode_bytes(data, **options)
    return str(caught.value)


@pytest.mark.parametrize("make", [pytest.param(make, id=f"wav-{name}") for name, make in WAVS.items()])
def test_wavs(make: Callable[[], bytes]) -> None:
    assert is_the_tune(decode_bytes(make()))


@pytest.mark.parametrize("make", [pytest.param(make, id=f"mp3-{name}") for name, make in MP3S.items()])
def test_mp3s(make: Callable[[], bytes]) -> None:
    twice = make is MP3S["junk-between"]
    audio = decode_bytes(make())
    assert is_the_tune(audio[:, : int(SECONDS * RATE)])
    assert (audio.shape[1] / RATE == pytest.approx(2 * SECONDS, abs=0.3)) is twice


@pytest.mark.parametrize(
    "between",
    [b"", TAG, b"TAG" + bytes(125), b"ID3\x04\0\0\0\x14\0\0" + bytes(20 << 14)],
    ids=["nothing", "a-tag", "an-old-tag", "a-picture"],
)
def test_mp3s_that_were_joined_are_decoded_to_the_end(between: bytes) -> None:
    audio = decode_bytes(mp3() + between + mp3())
    assert audio.shape[1] / RATE == pytest.approx(2 * SECONDS, abs=0.3)
    assert is_the_tune(audio[:, : int(SECONDS * RATE)])
    assert is_the_tune(audio[:, -int(SECONDS * RATE) :])


def test_tags_behind_an_mp3_leave_its_length_exact() -> None:
    for tags in (b"", b"TAG" + bytes(125), b"APETAGEX" + bytes(100_000)):
        assert decode_bytes(mp3() + tags).shape == (1, int(SECONDS * RATE))


@pytest.mark.parametrize("make", [pytest.param(make, id=f"ogg-{name}") for name, make in OGGS.items()])
def test_oggs(make: Callable[[], bytes]) -> None:
    assert is_the_tune(decode_bytes(make()))


@pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in PYAV.items()])
def test_what_pyav_decodes(make: Callable[[], bytes]) -> None:
    assert is_the_tune(decode_bytes(make()))


@pytest.mark.parametrize("kinds", [("VORBIS", "VORBIS", "VORBIS"), ("VORBIS", "OPUS"), ("OPUS", "OPUS")])
def test_streams_that_follow_one_another(kinds: tuple[str, ...]) -> None:
    """Each has a serial number, and here a sample rate, of its own."""
    rates = {"VORBIS": 44_100, "OPUS": 48_000}
    files = [encoded(tune(1.0, rates[kind]), rates[kind], "OGG", kind) for kind in kinds]
    chained = b"".join(set_stream_serial(data, number + 1) for number, data in enumerate(files))
    audio = decode_bytes(chained)
    assert audio.shape == (1, len(kinds) * RATE)
    for number in range(len(kinds)):
        assert is_the_tune(audio[:, number * RATE : (number + 1) * RATE], 1.0)
    assert decode_bytes(chained, seconds=1.5).shape == (1, round(1.5 * RATE))


@pytest.mark.parametrize("share", [0.3, 0.5, 0.95])
@pytest.mark.parametrize(
    "make", [wav, WAVS["rf64"], WAVS["extensible"], WAVS["riff-size-8-too-large"], mp3, OGGS["opus"], PYAV["m4a"]]
)
def test_what_is_cut_short_is_refused_and_the_reason_says_so(make: Callable[[], bytes], share: float) -> None:
    data = make()
    assert "cut short" in reason(data[: int(share * len(data))])


def test_an_m4a_whose_index_comes_first_is_cut() -> None:
    data = PYAV["m4a-index-first"]()
    assert "cut short" in reason(data[: len(data) * 6 // 10])


@pytest.mark.parametrize("channels", range(1, 9))
def test_channels(channels: int) -> None:
    audio = np.stack([TUNE * (0.5 if number else 1.0) for number in range(channels)], axis=1)
    data = encoded(audio, kind="WAVEX", subtype="FLOAT")
    assert np.allclose(decode_bytes(data)[0], audio.mean(axis=1), atol=1e-6)
    stereo = decode_bytes(data, channels=2)
    assert stereo.shape == (2, len(TUNE))
    assert all(np.corrcoef(side, TUNE)[0, 1] > 0.999 for side in stereo)


@pytest.mark.parametrize("rate", [8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 44_100, 48_000])
def test_mp3s_of_every_rate(rate: int) -> None:
    data = encoded(tune(SECONDS, rate), rate, "MP3")
    for variant in (data, without_xing(data)):
        assert decode_bytes(variant).shape[1] / RATE == pytest.approx(SECONDS, abs=0.25)


def test_without_pyav_the_kind_is_named_with_the_way_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    message = reason(b"\0\0\0\x18ftypM4A " + bytes(100))
    assert "is a file of the kind m4a, which needs PyAV: pip install '.[av]'" in message


@pytest.mark.parametrize("data", [b"\0\0\0\x18ftypM4A " + bytes(5000), b"\x1a\x45\xdf\xa3" + bytes(5000)])
def test_what_pyav_cannot_read_is_refused(data: bytes) -> None:
    assert "damaged or cut short" in reason(data) or "holds no sound" in reason(data)


def test_sound_of_an_unknown_codec_is_refused() -> None:
    for data in (PYAV["alac"]().replace(b"alac", b"zzzz"), PYAV["webm"]().replace(b"A_OPUS", b"A_ZPUS")):
        assert "has sound of a codec that FFmpeg does not know" in reason(data)


def test_a_file_without_a_sample_rate_or_without_channels_is_refused() -> None:
    """ALAC's own header says both, behind its maximal run, sizes and bit rates."""
    data = PYAV["alac"]()
    header = data.index(b"alac", data.index(b"alac") + 4) + 8
    for place, size in ((header + 9, 1), (header + 20, 4)):
        assert "does not say its sample rate and its channels" in reason(
            data[:place] + bytes(size) + data[place + size :]
        )


def test_hostile_headers_take_no_time() -> None:
    """A header at every other byte, junk between all frames, and a stream in each page."""
    frame = mp3()[:4]
    for data in (frame * 100_000, (frame + bytes(600)) * 2_000, b"\xff\xfb" * 500_000, b"OggS" * 100_000):
        with pytest.raises(RowError):
            decode_bytes(data)
