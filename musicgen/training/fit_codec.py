"""Fits the codebooks of the spectral codec: a k-means for each, on the residual of the codebooks before it.

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

MAX_FRAMES = 180_000  # an hour; of more music, frames are drawn evenly over all clips
BATCH = 4096  # frames of a k-means step
ROUNDS = 10  # passes over all frames in batches
POLISH = 2  # passes over all frames at once after that
QUIETER = (0.05, 1.0)  # every other clip is scaled by a factor drawn from this range, to get codes for quiet sounds
SILENCE = 0.005  # the share of added frames of digital silence, which so gets a code of its own

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class FittedCodec:
    """A fitted codec: settings, tensors and statistics.

    The tensors are float32, but each value can be represented in float16, so that storing them in float16 is exact.
    """

    settings: SpectralSettings
    tensors: dict[str, FloatArray]  # see SpectralSettings.shapes
    residual_variance: tuple[float, ...]  # the share of the variance that is left after each codebook
    frames: int  # that it was fitted on


def fit_codec(
    clips: Iterable[NDArray[np.float32]], settings: SpectralSettings | None = None, seed: int = 0
) -> FittedCodec:
    """Fit codebooks to `clips`, each float32 [samples] at `settings.sampling_rate`.

    The same seed gives the same codebooks. Clips are read once, and only their mel spectra are kept: 120 MB at most.
    Raises `UserError` for too little audio.
    """
    from threadpoolctl import threadpool_limits

    settings = settings or SpectralSettings()
    rng = np.random.default_rng(seed)
    frames = _sample_frames(_mel_frames(clips, MelBands(settings), rng), MAX_FRAMES, rng)
    if len(frames) < 2 * settings.codebook_size:
        raise UserError(
            f"a codec of {settings.codebook_size} codes needs at least {2 * settings.codebook_size} frames of sound "
            f"({2 * settings.codebook_size * settings.hop_length / settings.sampling_rate:.0f} s), not "
            f"{len(frames)}; give it more music"
        )
    mean = _round_to_half(frames.mean(axis=0))
    # All bands are scaled alike, so that loud bands count more.
    scale = _round_to_half(np.full(settings.n_mels, max(float((frames - mean).std()), 1e-3), np.float32))
    residual = (frames - mean) / scale
    variance = float(np.square(residual).sum(axis=1).mean())
    codebooks, variance_left = [], []
    with threadpool_limits(1):  # so that the order of sums does not depend on the number of cores
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
    """Yield the compressed mel spectra [frames, mels] of each clip, every other one quieter, and then some silence."""
    frame_count = 0
    for clip_index, clip in enumerate(clips):
        level = rng.uniform(*QUIETER) if clip_index % 2 else 1.0
        spectra = bands.analyze(np.asarray(clip, np.float32) * np.float32(level))
        frame_count += len(spectra)
        yield spectra
    yield np.zeros((round(SILENCE * frame_count), bands.settings.n_mels), np.float32)


def _sample_frames(pieces: Iterable[FloatArray], max_frames: int, rng: np.random.Generator) -> FloatArray:
    """Draw at most `max_frames` of all pieces' frames, in memory that does not grow with the music."""
    kept_pieces: list[FloatArray] = []
    frame_count = 0
    kept_share = 1.0
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
    """Fit centroids [size, dims] to frames [n, dims]: k-means in batches, then over all frames.

    A centroid that is nearest to no frame is moved to a frame that is far from its own centroid.
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


def _round_to_half(values: FloatArray) -> FloatArray:
    """Round to the nearest values of float16."""
    return values.astype(np.float16).astype(np.float32)
