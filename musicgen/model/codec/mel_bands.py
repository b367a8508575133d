"""Mel spectra of sound, and sound again by phase reconstruction, in numpy.

Analysis: the magnitudes of a short-time Fourier transform, summed into mel bands, each raised to a power below one
(which keeps the peaks, that carry the pitch, better than a logarithm does). Synthesis: the bands' magnitudes are spread
over the bins by multiplicative updates (Lee & Seung 2001). Phases start from single-pass spectrogram inversion
(Beauregard, Harish & Wyse 2015) and are refined by the fast Griffin-Lim algorithm (Perraudin, Balazs & Søndergaard
2013).

No sum has an order that depends on threads or on neighboring clips: transforms are pocketfft's, on one thread.
"""

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from musicgen.model.codec.mel_filters import make_mel_filters
from musicgen.model.codec.spectral_settings import SpectralSettings

REFINEMENT_ROUNDS = 32  # of the phases
PIECE_FRAMES = 256  # frames at once: arrays of 1 MB, which a processor's cache holds
AHEAD_FRAMES = (
    8  # frames after a piece that are refined with it, and again with the next: a piece's end knows what follows
)

_MOMENTUM = 0.99  # librosa's, and within the range that Perraudin et al. found best
_SPREAD_ROUNDS = 12  # multiplicative updates from bands to bins
_TINY = np.float32(1e-9)

Float = NDArray[np.float32]
Complex = NDArray[np.complex64]


class MelBands:
    """Converts sound [samples] to compressed mel magnitudes [frames, mels], and back."""

    def __init__(self, settings: SpectralSettings):
        self.settings = settings
        self.n_fft, self.hop = settings.n_fft, settings.hop_length
        self.overlap = -(-self.n_fft // self.hop)  # windows that may contain a sample
        self.margin = (self.n_fft - self.hop) // 2  # samples of a window on either side of its frame
        window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(self.n_fft) / self.n_fft)
        self.window: Float = (window / np.sqrt(np.sum(window**2))).astype(np.float32)

    @cached_property
    def _filters(self) -> Any:
        """The triangular filters on the mel scale, each of height one, as a sparse matrix [mels, bins]."""
        from scipy.sparse import csr_array

        return csr_array(make_mel_filters(self.settings.sampling_rate, self.n_fft, self.settings.n_mels))

    @cached_property
    def _filters_transposed(self) -> Any:
        """The filters' transpose, a sparse matrix [bins, mels]."""
        return self._filters.T.tocsr()

    def analyze(self, audio: NDArray[np.float32]) -> Float:
        """Compute the compressed mel magnitudes [ceil(samples / hop), mels] of sound [samples] between silence."""
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
        """Reconstruct sound [frames * hop] from compressed mel magnitudes [frames, mels].

        It works piece by piece. The last frames of the piece before, whose windows reach into this one, are kept as
        they are, and the first frames of the next piece are refined along. So pieces meet without a seam, and memory
        does not grow with the clip.
        """
        frames = len(compressed)
        audio = np.zeros((frames - 1) * self.hop + self.n_fft, np.float32)
        held = np.zeros((0, self.n_fft // 2 + 1), np.complex64)
        for start in range(0, frames, PIECE_FRAMES):
            end = min(frames, start + PIECE_FRAMES)
            if frames - end <= AHEAD_FRAMES:
                end = frames
            magnitudes = self.spread_magnitudes(compressed[start : min(frames, end + AHEAD_FRAMES)])
            spectra = self._reconstruct_phases(magnitudes, held, last=end == frames)[: len(held) + end - start]
            self._overlap_add(audio[start * self.hop :], spectra[len(held) :])
            held = spectra[-(self.overlap - 1) :]
            if end == frames:
                break
        audio /= self._window_sums(frames)
        return audio[self.margin : self.margin + frames * self.hop]

    def spread_magnitudes(self, compressed: Float) -> Float:
        """Find the magnitudes [frames, bins] >= 0 whose mel bands are nearest to `compressed` [frames, mels]."""
        bands = np.maximum(compressed, 0).T ** np.float32(1 / self.settings.compression)  # [mels, frames]
        target = self._filters_transposed @ bands
        heights = np.maximum(self._filters_transposed.sum(axis=1), _TINY)[:, None]
        widths = np.maximum(self._filters.sum(axis=1), _TINY)[:, None]
        magnitudes = (self._filters_transposed @ (bands / widths)) / heights
        for _ in range(_SPREAD_ROUNDS):
            magnitudes *= target / np.maximum(self._filters_transposed @ (self._filters @ magnitudes), _TINY)
        return np.ascontiguousarray(magnitudes.T, dtype=np.float32)

    def _reconstruct_phases(self, magnitudes: Float, held: Complex, last: bool) -> Complex:
        """Find phases for magnitudes [frames, bins] that follow the spectra `held` -> spectra [held + frames, bins].

        Each round makes sound of the spectra and transforms it again; the next spectra extrapolate the change by the
        momentum. Before the clip's beginning and (`last`) after its end there is silence.
        """
        known = len(held)
        first = propagate_phases(magnitudes, np.angle(held[-1]) if known else None, self.hop, self.n_fft)
        spectra = np.concatenate([held, magnitudes * np.exp(1j * first.astype(np.complex64))])
        frames = len(spectra)
        weights = self._window_sums(frames)
        before: Complex | None = None
        for _ in range(REFINEMENT_ROUNDS):
            audio = np.zeros(len(weights), np.float32)
            self._overlap_add(audio, spectra)
            audio /= weights
            if not known:
                audio[: self.margin] = 0
            if last:
                audio[self.margin + frames * self.hop :] = 0
            consistent = self._transform(audio, frames)[known:]
            extrapolated = consistent if before is None else consistent + np.float32(_MOMENTUM) * (consistent - before)
            before = consistent
            size = np.sqrt(extrapolated.real**2 + extrapolated.imag**2)
            np.multiply(extrapolated, magnitudes / np.maximum(size, _TINY), out=spectra[known:])
        return spectra

    def _transform(self, audio: Float, frames: int) -> Complex:
        """Compute the spectra [frames, bins] of the windows that begin at audio[0], audio[hop], ..."""
        from scipy import fft

        windows = np.lib.stride_tricks.sliding_window_view(audio, self.n_fft)[:: self.hop][:frames]
        return fft.rfft(windows * self.window, axis=1, overwrite_x=True, workers=1)

    def _overlap_add(self, audio: Float, spectra: Complex) -> None:
        """Add the windowed sound of spectra [frames, bins] to audio, each window one hop after the one before."""
        from scipy import fft

        self._add_windows(audio, fft.irfft(spectra, n=self.n_fft, axis=1, workers=1) * self.window)

    def _add_windows(self, audio: Float, windows: Float) -> None:
        """Add windows [frames, n_fft] to audio, each one hop after the one before."""
        frames = len(windows)
        for k in range(self.overlap):
            part = windows[:, k * self.hop : (k + 1) * self.hop]
            begin, width = k * self.hop, part.shape[1]
            rows = np.lib.stride_tricks.as_strided(
                audio[begin:], (frames, width), (self.hop * audio.itemsize, audio.itemsize)
            )
            rows += part

    def _window_sums(self, frames: int) -> Float:
        """Sum the squared overlapping windows, [(frames - 1) * hop + n_fft], with a floor at the ends, where division
        amplifies rounding.
        """
        weights = np.zeros((frames - 1) * self.hop + self.n_fft, np.float32)
        self._add_windows(weights, np.broadcast_to(self.window**2, (frames, self.n_fft)))
        return np.maximum(weights, 1e-3 * weights.max())


def propagate_phases(magnitudes: Float, before: Float | None, hop: int, n_fft: int) -> Float:
    """Compute the phases [frames, bins] that sinusoids at the magnitudes' peaks would have (Beauregard et al. 2015).

    From frame to frame a peak's phase advances by its frequency, which a parabola through the logarithms of three bins
    gives. The bins around a peak, up to the middle between two peaks, take its phase, alternately with and without a
    half turn, as in a window's main lobe. `before` holds the phases [bins] of the frame before the first; None means
    zero.
    """
    frames, bins = magnitudes.shape
    bin_numbers = np.arange(bins)
    log_magnitudes = np.log(magnitudes + np.float32(1e-7))
    is_peak = np.zeros((frames, bins), bool)
    is_peak[:, 1:-1] = (log_magnitudes[:, 1:-1] > log_magnitudes[:, :-2]) & (
        log_magnitudes[:, 1:-1] >= log_magnitudes[:, 2:]
    )
    phases = np.empty((frames, bins), np.float32)
    current = np.zeros(bins) if before is None else before.astype(np.float64)
    for t in range(frames):
        peaks = np.flatnonzero(is_peak[t])
        if len(peaks):
            left, middle, right = (log_magnitudes[t, peaks + shift].astype(np.float64) for shift in (-1, 0, 1))
            offset = np.clip(0.5 * (left - right) / (left - 2 * middle + right - 1e-9), -0.5, 0.5)
            moved = current[peaks] + (2 * np.pi * hop / n_fft) * (peaks + offset)
            nearest = np.searchsorted((peaks[1:] + peaks[:-1]) / 2, bin_numbers)
            current = np.mod(moved[nearest] + np.pi * ((bin_numbers - peaks[nearest]) % 2), 2 * np.pi)
        phases[t] = current
    return phases
