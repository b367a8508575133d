"""Fits the spectral codec: one k-means after the other, each on what the codebooks before it left over.

fitted = fit_codec(clips, SpectralSettings(), seed=0)
codec = SpectralCodec.from_state(fitted.settings, fitted.tensors)
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from musicgen.errors import UserError
from musicgen.model.codec.mel_bands import MelBands
from musicgen.model.codec.spectral_settings import SpectralSettings

MAX_FRAMES = 180_000  # an hour; of more, frames are drawn evenly: many clips say more than many frames of a few
BATCH = 4096  # frames of a k-means step
ROUNDS = 10  # over all frames, in batches, and then
POLISH = 2  # over all frames at once
QUIETER = (0.05, 1.0)  # each clip is heard at a level drawn from here too: codes for what is soft
SILENCE = 0.005  # the part of the frames that are digital silence: it has a code of its own

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class FittedCodec:
    """A codec's settings, its tensors (float32, each value one of float16's, so that storing halves changes nothing),
    and how it went.
    """

    settings: SpectralSettings
    tensors: dict[str, FloatArray]  # see SpectralSettings.shapes
    residual_variance: tuple[float, ...]  # the part of the variance that is left after each codebook
    frames: int  # that it was fitted on


def fit_codec(
    clips: Iterable[NDArray[np.float32]], settings: SpectralSettings | None = None, seed: int = 0
) -> FittedCodec:
    """Fit codebooks to `clips`, each sound float32 [samples] at `settings.sampling_rate`; the same seed gives the same
    codebooks.

    Clips are read once, and only their mel spectra held: 120 MB at most. Raises `UserError`: too little sound to fit
    on.
    """
    from threadpoolctl import threadpool_limits

    settings = settings or SpectralSettings()
    rng = np.random.default_rng(seed)
    frames = _sample_frames(_mel_frames(clips, MelBands(settings), rng), MAX_FRAMES, rng)
    if len(frames) < 2 * settings.codebook_size:
        raise UserError(
            f"a codec of {settings.codebook_size} centres wants at least {2 * settings.codebook_size} frames of sound "
            f"({2 * settings.codebook_size * settings.hop_length / settings.sampling_rate:.0f} s), not "
            f"{len(frames)}; give it more music"
        )
    mean = _round_to_half(frames.mean(axis=0))
    scale = _round_to_half(
        np.full(settings.n_mels, max(float((frames - mean).std()), 1e-3), np.float32)
    )  # one for all: loud bands count more
    residual = (frames - mean) / scale
    variance = float(np.square(residual).sum(axis=1).mean())
    codebooks, variance_left = [], []
    with threadpool_limits(1):  # sums in one order, however many cores there are
        for _ in range(settings.num_quantizers):
            centroids = _round_to_half(_fit_centroids(residual, settings.codebook_size, rng))
            residual = residual - centroids[_nearest_centroids(residual, centroids)]
            codebooks.append(centroids)
            variance_left.append(float(np.square(residual).sum(axis=1).mean()) / variance)
    return FittedCodec(
        settings, {"codebooks": np.stack(codebooks), "mean": mean, "scale": scale}, tuple(variance_left), len(frames)
    )


def _mel_frames(
    clips: Iterable[NDArray[np.float32]], bands: MelBands, rng: np.random.Generator
) -> Iterator[FloatArray]:
    """Compressed mel spectra [frames, mels] of each clip, every other one quieter; then some silence."""
    frame_count = 0
    for clip_index, clip in enumerate(clips):
        level = rng.uniform(*QUIETER) if clip_index % 2 else 1.0
        spectra = bands.analyze(np.asarray(clip, np.float32) * np.float32(level))
        frame_count += len(spectra)
        yield spectra
    yield np.zeros((round(SILENCE * frame_count), bands.settings.n_mels), np.float32)


def _sample_frames(pieces: Iterable[FloatArray], max_frames: int, rng: np.random.Generator) -> FloatArray:
    """At most `most` rows of all pieces: a reservoir, so that memory does not grow with the music."""
    kept_pieces: list[FloatArray] = []
    frame_count = 0
    kept_share = 1.0  # the part of the rows that is taken
    for piece in pieces:
        kept_piece = piece if kept_share == 1 else piece[rng.random(len(piece)) < kept_share]
        kept_pieces.append(kept_piece)
        frame_count += len(kept_piece)
        if frame_count > max_frames:
            rows = np.concatenate(kept_pieces)
            kept_pieces = [rows[rng.random(len(rows)) < 0.5]]
            kept_share, frame_count = kept_share / 2, len(kept_pieces[0])
    return np.concatenate(kept_pieces) if kept_pieces else np.zeros((0, 1), np.float32)


def _fit_centroids(frames: FloatArray, size: int, rng: np.random.Generator) -> FloatArray:
    """Centres [size, dims] of rows: k-means in batches, then over all; a centre that nothing is near begins anew in a
    far row.
    """
    from sklearn.cluster import MiniBatchKMeans

    kmeans = MiniBatchKMeans(
        size,
        init="random",
        n_init=1,
        batch_size=BATCH,
        max_iter=ROUNDS,
        max_no_improvement=None,
        random_state=int(rng.integers(1 << 31)),
    )
    centroids: FloatArray = kmeans.fit(frames).cluster_centers_.astype(np.float32)
    for _ in range(POLISH):
        nearest = _nearest_centroids(frames, centroids)
        counts = np.bincount(nearest, minlength=size)
        used, unused = np.flatnonzero(counts), np.flatnonzero(counts == 0)
        farthest = np.argsort(np.square(frames - centroids[nearest]).sum(axis=1), kind="stable")[
            len(frames) - len(unused) :
        ]
        starts = np.concatenate([[0], np.cumsum(counts[used])[:-1]])
        sums = np.add.reduceat(frames[np.argsort(nearest, kind="stable")], starts, axis=0)
        centroids[used] = sums / counts[used, None]
        centroids[unused] = frames[farthest]
    return centroids


def _nearest_centroids(frames: FloatArray, centroids: FloatArray) -> NDArray[np.intp]:
    half_norms = np.square(centroids).sum(axis=1) / 2
    return np.concatenate(
        [
            (half_norms - frames[start : start + BATCH] @ centroids.T).argmin(axis=1)
            for start in range(0, len(frames), BATCH)
        ]
    )


def _round_to_half(values: NDArray[np.floating]) -> FloatArray:
    """The nearest values that float16 holds."""
    return values.astype(np.float16).astype(np.float32)
