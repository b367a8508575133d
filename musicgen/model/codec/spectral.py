"""The spectral codec of the embedded model: mel spectra, quantised; sound again by phase reconstruction. Without torch.

Encoding: the magnitudes of a short-time Fourier transform, summed into mel bands, each raised to a power below one (it
keeps the peaks, which carry the pitch, better than a logarithm does), and quantised by residual vector quantisation: each
codebook quantises what the ones before it left over. Decoding: the bands' magnitudes, spread over the bins by
multiplicative updates (Lee & Seung 2001), then phases: single-pass spectrogram inversion (Beauregard, Harish & Wyse 2015)
to begin with, refined by the fast Griffin-Lim algorithm (Perraudin, Balazs & Søndergaard 2013).

Nothing here sums in an order that depends on threads or on neighbours: transforms are pocketfft's, on one thread, and the
one BLAS product only proposes candidates. A clip's sound depends on its codes alone, bit for bit.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from musicgen.errors import ModelError
from musicgen.model.codec import checks

if TYPE_CHECKING:
    from musicgen.model.checkpoint.tensors import Tensors
    from musicgen.model.spec import ModelSpec

MODEL_TYPE = "spectral_rvq"
ROUNDS = 32  # of phase refinement
PIECE_FRAMES = 256  # worked on at once: arrays of 1 MB, which a cache holds
AHEAD_FRAMES = (
    8  # after a piece, refined with it and then again with the next: no piece ends without knowing what follows
)

_MOMENTUM = 0.99  # librosa's, and within the range that Perraudin et al. found best
_SPREAD_ROUNDS = 12  # multiplicative updates from bands to bins
_CANDIDATES = 4  # centres whose distances are computed exactly
_TINY = np.float32(1e-9)

Float = NDArray[np.float32]


@dataclass(frozen=True)
class SpectralSettings:
    """The section `audio_encoder` of `config.json` for `model_type` "spectral_rvq"."""

    sampling_rate: int = 16_000  # Hz
    hop_length: int = 320  # samples per frame
    n_fft: int = 1024  # samples per window
    n_mels: int = 160
    num_quantizers: int = 4
    codebook_size: int = 1024
    compression: float = 0.5  # the power that band magnitudes are raised to

    @classmethod
    def parse(cls, section: Mapping[str, Any], where: str = "config.json") -> "SpectralSettings":
        """The settings in a section; keys that are not there take the defaults. `where` names it in errors. Raises `ModelError`."""
        known = {field.name: section.get(field.name, field.default) for field in fields(cls)}
        for name, value in known.items():
            number = isinstance(value, (int, float) if name == "compression" else int) and not isinstance(value, bool)
            if not number or value <= 0:
                raise ModelError(f"{where}: audio_encoder.{name} is {value!r}; it must be a positive number")
        settings = cls(**known)
        if settings.n_fft < 2 * settings.hop_length or (settings.n_fft - settings.hop_length) % 2 or settings.n_fft % 2:
            raise ModelError(
                f"{where}: audio_encoder.n_fft {settings.n_fft} and hop_length {settings.hop_length} do not fit; windows are even, and "
                "overlap by half at least"
            )
        if settings.n_mels > settings.n_fft // 2 or settings.compression > 1 or settings.codebook_size > 1 << 15:
            raise ModelError(
                f"{where}: audio_encoder has n_mels {settings.n_mels}, compression {settings.compression}, codebook_size "
                f"{settings.codebook_size}; at most n_fft / 2, 1 and 32768 are possible"
            )
        return settings

    def to_section(self) -> dict[str, Any]:
        """The section `audio_encoder`, JSON-ready."""
        return {"model_type": MODEL_TYPE, **asdict(self)}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The codec's tensors, in a checkpoint under `audio_encoder.`, and their shapes."""
        return {
            "codebooks": (self.num_quantizers, self.codebook_size, self.n_mels),
            "mean": (self.n_mels,),
            "scale": (self.n_mels,),
        }


class SpectralCodec:
    """Waveform <-> codes (the protocol `musicgen.model.codec.codec.Codec`), clip by clip. Safe to use from several threads.

    Frame t stands for the samples [t * hop, (t + 1) * hop), in the middle of a window of `n_fft`. Stereo is two mono streams
    whose codebooks interleave (left, right, left, right), as in `EnCodec`. Sound never exceeds full scale: a clip that
    would is scaled down as a whole.

    What a fit gives (`musicgen.training.fit_codec.fit_codec`) becomes a codec without any folder:

        fitted = fit_codec(clips, SpectralSettings(), seed=0)
        codec = SpectralCodec.from_state(fitted.settings, fitted.tensors)

    and a checkpoint of it has `fitted.settings.to_section()` as `audio_encoder` in config.json, and the tensors in
    model.safetensors with the prefix `audio_encoder.`.
    """

    def __init__(self, settings: SpectralSettings, codebooks: Float, mean: Float, scale: Float, channels: int = 1):
        self.settings = settings
        self.sample_rate = settings.sampling_rate
        self.frame_rate = settings.sampling_rate / settings.hop_length
        self.channels = channels
        self.codebooks = settings.num_quantizers * channels
        self.codebook_size = settings.codebook_size
        self.hop = settings.hop_length
        self.bands = MelBands(settings)
        self._centres = codebooks  # [levels, size, mels]
        self._half_norms = 0.5 * np.einsum("lsm,lsm->ls", codebooks.astype(np.float64), codebooks.astype(np.float64))
        self._mean, self._scale = mean, scale

    @classmethod
    def from_state(
        cls,
        settings: SpectralSettings | Mapping[str, Any],
        tensors: Mapping[str, Any],
        channels: int = 1,
        where: str = "the codec",
    ) -> "SpectralCodec":
        """A codec of settings (or a section `audio_encoder`) and its tensors, numpy's or torch's: see `SpectralSettings.shapes`.

        Raises `ModelError`: a tensor is missing, of another shape, or not finite.
        """
        if not isinstance(settings, SpectralSettings):
            settings = SpectralSettings.parse(settings, where)
        found: dict[str, Float] = {}
        for name, shape in settings.shapes.items():
            if name not in tensors:
                raise ModelError(f"{where} lacks the tensor audio_encoder.{name}; the checkpoint is incomplete")
            found[name] = np.ascontiguousarray(np.asarray(tensors[name]), dtype=np.float32)
            if found[name].shape != shape:
                raise ModelError(
                    f"{where}: audio_encoder.{name} has the shape {found[name].shape}, its config says {shape}; "
                    "config.json and weights do not belong together"
                )
            if not np.isfinite(found[name]).all() or (name == "scale" and (found[name] <= 0).any()):
                raise ModelError(
                    f"{where}: audio_encoder.{name} holds values that are not finite or not positive; fit the codec again"
                )
        return cls(settings, found["codebooks"], found["mean"], found["scale"], channels)

    @classmethod
    def load(cls, folder: Path, spec: "ModelSpec", tensors: "Tensors") -> "SpectralCodec":
        """The codec of a checkpoint; it computes on the CPU. Raises `ModelError`."""
        import torch

        section = json.loads((folder / "config.json").read_text(encoding="utf-8"))["audio_encoder"]
        settings = SpectralSettings.parse(section, f"{folder / 'config.json'}")
        if settings.num_quantizers != spec.codebooks // spec.channels:
            raise ModelError(
                f"{folder}: its codec has {settings.num_quantizers} codebooks, the decoder {spec.codebooks // spec.channels} "
                "a channel; config.json is wrong"
            )
        return cls.from_state(
            settings, tensors.read("audio_encoder.", "cpu", torch.float32), spec.channels, f"{folder}"
        )

    def encode(self, audio: NDArray[np.float32]) -> NDArray[np.int16]:
        """Codes int16 [codebooks, ceil(samples / hop)] of sound float32 [channels, samples] at `sample_rate`.

        Raises ValueError for sound of another shape, empty, or not finite.
        """
        audio = checks.check_audio(audio, self.channels)
        streams = [self._quantize(self.bands.analyze(channel)) for channel in audio]  # [levels, frames] each
        return np.stack(streams, axis=1).reshape(self.codebooks, -1)

    def decode(self, codes: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """Sound float32 [channels, frames * hop], within [-1, 1], of codes [codebooks, frames].

        Raises ValueError for codes of another shape or beyond the codebook.
        """
        codes = checks.check_codes(codes, self.codebooks, self.codebook_size)
        audio = np.stack(
            [
                self.bands.synthesize(self.dequantize(codes[channel :: self.channels]))
                for channel in range(self.channels)
            ]
        )
        peak = np.abs(audio).max()
        return audio / peak if peak > 1 else audio

    def decode_all(self, clips: Sequence[NDArray[np.integer[Any]]]) -> list[NDArray[np.float32]]:
        """`decode` of each clip."""
        return [self.decode(codes) for codes in clips]

    def dequantize(self, codes: NDArray[np.integer[Any]]) -> Float:
        """The compressed band magnitudes [frames, mels] that codes [levels, frames] of one channel stand for."""
        total = np.zeros((codes.shape[1], self.settings.n_mels), np.float32)
        for centres, ids in zip(self._centres, codes, strict=True):
            total += centres[ids]
        return total * self._scale + self._mean

    def _quantize(self, compressed: Float) -> NDArray[np.int16]:
        """Codes int16 [levels, frames] of compressed band magnitudes [frames, mels]."""
        codes = np.empty((self.settings.num_quantizers, len(compressed)), np.int16)
        for start in range(0, len(compressed), PIECE_FRAMES):
            rest = (compressed[start : start + PIECE_FRAMES] - self._mean) / self._scale
            for level, centres in enumerate(self._centres):
                ids = self._nearest(level, rest)
                codes[level, start : start + len(ids)] = ids
                rest -= centres[ids]
        return codes

    def _nearest(self, level: int, rest: Float) -> NDArray[np.intp]:
        """The nearest centre of each row [frames, mels]. A product in float32 proposes; float64, in a fixed order, decides."""
        centres, half_norms = self._centres[level], self._half_norms[level]
        if len(centres) <= _CANDIDATES:
            near = np.tile(np.arange(len(centres)), (len(rest), 1))
        else:
            near = np.argpartition(rest @ centres.T - half_norms.astype(np.float32), -_CANDIDATES, axis=1)[
                :, -_CANDIDATES:
            ]
            near.sort(axis=1)
        exact = np.einsum("tm,tcm->tc", rest.astype(np.float64), centres[near].astype(np.float64)) - half_norms[near]
        return np.take_along_axis(near, exact.argmax(axis=1)[:, None], axis=1)[:, 0]


class MelBands:
    """Sound [samples] to compressed mel magnitudes [frames, mels], and back to sound."""

    def __init__(self, settings: SpectralSettings):
        self.settings = settings
        self.n_fft, self.hop = settings.n_fft, settings.hop_length
        self.overlap = -(-self.n_fft // self.hop)  # windows that a sample may lie in
        self.margin = (self.n_fft - self.hop) // 2  # of a window, on either side of its frame
        window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(self.n_fft) / self.n_fft)
        self.window: Float = (window / np.sqrt(np.sum(window**2))).astype(np.float32)

    @cached_property
    def _filters(self) -> Any:
        """Triangles on the mel scale, sparse [mels, bins], each of height one."""
        from librosa import filters  # type: ignore[attr-defined]  # a lazy module
        from scipy.sparse import csr_array

        s = self.settings
        return csr_array(filters.mel(sr=s.sampling_rate, n_fft=s.n_fft, n_mels=s.n_mels, norm=None).astype(np.float32))

    @cached_property
    def _spread(self) -> Any:
        """The filters' transpose, sparse [bins, mels]."""
        return self._filters.T.tocsr()

    def analyze(self, audio: NDArray[np.float32]) -> Float:
        """Compressed mel magnitudes [ceil(samples / hop), mels] of sound [samples]; around the clip is silence."""
        frames = -(-len(audio) // self.hop)
        padded = np.zeros((frames - 1) * self.hop + self.n_fft, np.float32)
        padded[self.margin : self.margin + len(audio)] = audio
        rows = []
        for start in range(0, frames, PIECE_FRAMES):
            count = min(PIECE_FRAMES, frames - start)
            spectra = self._transform(padded[start * self.hop :], count)
            magnitudes = np.sqrt(spectra.real**2 + spectra.imag**2)
            rows.append((self._filters @ magnitudes.T).T ** np.float32(self.settings.compression))
        return np.concatenate(rows)

    def synthesize(self, compressed: Float) -> Float:
        """Sound [frames * hop] of compressed mel magnitudes [frames, mels].

        Piece by piece. The frames that reach into a piece from the one before are held as they are, and those of the next
        are refined with it: so pieces meet without a seam, and memory does not grow with the clip.
        """
        frames = len(compressed)
        audio = np.zeros((frames - 1) * self.hop + self.n_fft, np.float32)
        held = np.zeros((0, self.n_fft // 2 + 1), np.complex64)
        for start in range(0, frames, PIECE_FRAMES):
            end = min(frames, start + PIECE_FRAMES)
            if frames - end <= AHEAD_FRAMES:
                end = frames
            magnitudes = self.spread_magnitudes(compressed[start : min(frames, end + AHEAD_FRAMES)])
            spectra = self._phases(magnitudes, held, last=end == frames)[: len(held) + end - start]
            self._add(audio[start * self.hop :], spectra[len(held) :])
            held = spectra[-(self.overlap - 1) :]
            if end == frames:
                break
        audio /= self._weights(frames)
        return audio[self.margin : self.margin + frames * self.hop]

    def spread_magnitudes(self, compressed: Float) -> Float:
        """Magnitudes [frames, bins] whose mel bands are nearest to `compressed` [frames, mels], none negative."""
        bands = np.maximum(compressed, 0).T ** np.float32(1 / self.settings.compression)  # [mels, frames]
        wanted = self._spread @ bands
        heights = np.maximum(self._spread.sum(axis=1), _TINY)[:, None]
        widths = np.maximum(self._filters.sum(axis=1), _TINY)[:, None]
        found = (self._spread @ (bands / widths)) / heights
        for _ in range(_SPREAD_ROUNDS):
            found *= wanted / np.maximum(self._spread @ (self._filters @ found), _TINY)
        return np.ascontiguousarray(found.T, dtype=np.float32)

    def _phases(self, magnitudes: Float, held: NDArray[np.complex64], last: bool) -> NDArray[np.complex64]:
        """Spectra [held + frames, bins] of these magnitudes [frames, bins] after the spectra `held`, which are given.

        Rounds of making sound of them, looking at its spectra, and going some way beyond these (that is the momentum). Where
        the clip begins and (`last`) ends, what lies outside is silence.
        """
        known = len(held)
        first = propagate_phases(magnitudes, np.angle(held[-1]) if known else None, self.hop, self.n_fft)
        spectra = np.concatenate([held, magnitudes * np.exp(1j * first.astype(np.complex64))])
        frames = len(spectra)
        weights = self._weights(frames)
        before: NDArray[np.complex64] | None = None
        for _ in range(ROUNDS):
            audio = np.zeros(len(weights), np.float32)
            self._add(audio, spectra)
            audio /= weights
            if not known:
                audio[: self.margin] = 0
            if last:
                audio[self.margin + frames * self.hop :] = 0
            seen = self._transform(audio, frames)[known:]
            ahead = seen if before is None else seen + np.float32(_MOMENTUM) * (seen - before)
            before = seen
            size = np.sqrt(ahead.real**2 + ahead.imag**2)
            np.multiply(ahead, magnitudes / np.maximum(size, _TINY), out=spectra[known:])
        return spectra

    def _transform(self, audio: Float, frames: int) -> NDArray[np.complex64]:
        """Spectra [frames, bins] of the windows that begin at audio[0], audio[hop], ..."""
        from scipy import fft

        windows = np.lib.stride_tricks.sliding_window_view(audio, self.n_fft)[:: self.hop][:frames]
        return fft.rfft(windows * self.window, axis=1, overwrite_x=True, workers=1)

    def _add(self, audio: Float, spectra: NDArray[np.complex64]) -> None:
        """Add the windowed sound of spectra [frames, bins] to audio[0 :], each a hop after the last."""
        from scipy import fft

        self._overlap(audio, fft.irfft(spectra, n=self.n_fft, axis=1, workers=1) * self.window)

    def _overlap(self, audio: Float, windows: Float) -> None:
        frames = len(windows)
        for k in range(self.overlap):
            part = windows[:, k * self.hop : (k + 1) * self.hop]
            begin, width = k * self.hop, part.shape[1]
            rows = np.lib.stride_tricks.as_strided(
                audio[begin:], (frames, width), (self.hop * audio.itemsize, audio.itemsize)
            )
            rows += part

    def _weights(self, frames: int) -> Float:
        """What overlapping windows add up to, [(frames - 1) * hop + n_fft]; not so small at the ends that rounding shows."""
        weights = np.zeros((frames - 1) * self.hop + self.n_fft, np.float32)
        self._overlap(weights, np.broadcast_to(self.window**2, (frames, self.n_fft)))
        return np.maximum(weights, 1e-3 * weights.max())


def propagate_phases(magnitudes: Float, before: Float | None, hop: int, n_fft: int) -> Float:
    """Phases [frames, bins] that sinusoids at the magnitudes' peaks would have (Beauregard et al. 2015).

    From frame to frame a peak's phase moves on by its frequency, which a parabola through the logarithms of three bins
    gives; the bins around it, up to the middle between two peaks, go with it, in turn in and out of phase, as a window's
    main lobe does. `before` holds the phases [bins] of the frame before the first; None is zero.
    """
    frames, bins = magnitudes.shape
    numbers = np.arange(bins)
    logs = np.log(magnitudes + np.float32(1e-7))
    inner = np.zeros((frames, bins), bool)
    inner[:, 1:-1] = (logs[:, 1:-1] > logs[:, :-2]) & (logs[:, 1:-1] >= logs[:, 2:])
    phases = np.empty((frames, bins), np.float32)
    now = np.zeros(bins) if before is None else before.astype(np.float64)
    for t in range(frames):
        peaks = np.flatnonzero(inner[t])
        if len(peaks):
            left, middle, right = (logs[t, peaks + shift].astype(np.float64) for shift in (-1, 0, 1))
            offset = np.clip(0.5 * (left - right) / (left - 2 * middle + right - 1e-9), -0.5, 0.5)
            moved = now[peaks] + (2 * np.pi * hop / n_fft) * (peaks + offset)
            nearest = np.searchsorted((peaks[1:] + peaks[:-1]) / 2, numbers)
            now = np.mod(moved[nearest] + np.pi * ((numbers - peaks[nearest]) % 2), 2 * np.pi)
        phases[t] = now
    return phases
