"""The other side: transformers' `MusicgenForConditionalGeneration.generate`, timed per step from outside."""

import itertools
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.benchmarks.workload import Row

DELAY_STEPS = 3  # max_new_tokens = frames + 3: the delay pattern of four codebooks


@dataclass(frozen=True)
class PeerSetup:
    """The settings found best on this machine (`peer_tuning`)."""

    dtype: str = "float32"
    attention: str = "sdpa"
    batch: int = 8


@dataclass
class Timing:
    """What one side took for a workload. Seconds; `step_ms` holds one entry per decode step in order of position."""

    clips: int = 0
    audio_s: float = 0.0
    wall_s: float = 0.0
    codec_s: float = 0.0
    steps: int = 0
    step_ms: list[float] = field(default_factory=list)
    works: list[dict[str, int]] = field(default_factory=list)  # our side: what each step had to do
    peak_rss_mb: float = 0.0
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Audio-seconds per second, text encoder and codec included."""
        return self.audio_s / self.wall_s

    def to_json(self) -> dict[str, Any]:
        """All of it, as JSON-ready values."""
        return asdict(self)


def peak_rss_mb() -> float:
    """The most memory this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Peer:
    """transformers with one checkpoint and one setup."""

    def __init__(self, folder: Path, setup: PeerSetup):
        import torch
        from transformers import AutoTokenizer, MusicgenForConditionalGeneration
        from transformers.utils import logging as transformers_logging

        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        self.setup = setup
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = MusicgenForConditionalGeneration.from_pretrained(folder, dtype=getattr(torch, setup.dtype)).eval()
        self.model.decoder.set_attn_implementation(setup.attention)

    def generate(self, rows: list[Row]) -> Timing:
        """Make all rows, longest first, in batches of `setup.batch`; every batch runs to its longest row."""
        ordered = sorted(rows, key=lambda row: -row.frames)
        timing = Timing(clips=len(rows), audio_s=sum(row.audio_s for row in rows))
        begin = time.perf_counter()
        for first in range(0, len(ordered), self.setup.batch):
            batch = ordered[first : first + self.setup.batch]
            stamps, codec_s = self._generate_batch(batch)
            timing.codec_s += codec_s
            timing.steps += len(stamps)
            if first == 0:
                timing.step_ms = [1000 * (after - before) for before, after in itertools.pairwise(stamps)]
        timing.wall_s = time.perf_counter() - begin
        timing.peak_rss_mb = peak_rss_mb()
        timing.details = {"setup": asdict(self.setup)}
        return timing

    def _generate_batch(self, rows: list[Row]) -> tuple[list[float], float]:
        import torch
        from transformers import LogitsProcessorList

        frames = max(row.frames for row in rows)
        texts = self.tokenizer([row.prompt for row in rows], return_tensors="pt", padding=True)
        stamps = _Stamps()
        torch.manual_seed(rows[0].seed)
        with self._codec_timer() as codec:
            audio = self.model.generate(
                **texts,
                do_sample=True,
                top_k=250,
                guidance_scale=3.0,
                max_new_tokens=frames + DELAY_STEPS,
                logits_processor=LogitsProcessorList([stamps]),
            )
        if audio.shape != (len(rows), 1, frames * 640):
            raise RuntimeError(
                f"transformers made {tuple(audio.shape)} for {len(rows)} clips of {frames} frames: not the same work"
            )
        return stamps.times, codec[0]

    @contextmanager
    def _codec_timer(self) -> Iterator[list[float]]:
        decode, spent = self.model.audio_encoder.decode, [0.0]

        def timed(*args: Any, **kwargs: Any) -> Any:
            begin = time.perf_counter()
            try:
                return decode(*args, **kwargs)
            finally:
                spent[0] += time.perf_counter() - begin

        self.model.audio_encoder.decode = timed
        try:
            yield spent
        finally:
            del self.model.audio_encoder.decode


class _Stamps:
    """A logits processor that notes when each step's logits are there, and changes nothing."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        self.times.append(time.perf_counter())
        return scores
