"""Our side: the bare engine, as `MusicGen.generate` and the actor drive it."""

import time
from pathlib import Path
from typing import Any

from tests.benchmarks.peer import Timing, peak_rss_mb
from tests.benchmarks.step_profile import StepRecorder, vars_of
from tests.benchmarks.workload import Row


class Ours:
    """The engine with one checkpoint, so many slots, and room for clips of `max_frames`."""

    def __init__(self, folder: Path, slots: int, max_frames: int, dtype: str = "auto", device: str = "auto"):
        from musicgen.conditioning.conditioner import RequestConditioner
        from musicgen.engine import Engine
        from musicgen.model import load_model, resolve_checkpoint

        self.model = load_model(resolve_checkpoint(str(folder)), device, dtype)
        self.engine: Any = Engine(self.model, RequestConditioner(self.model), slots=slots, max_frames=max_frames)

    def __enter__(self) -> "Ours":
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.close()

    def generate(self, rows: list[Row]) -> Timing:
        """Make all rows in the order they come, slots refilled as clips finish. Raises what a row raised."""
        from musicgen import Request
        from musicgen.clip import Clip

        waiting = [
            Request(prompt=row.prompt, duration_s=row.audio_s, seed=row.seed, id=str(number)).resolve(
                0, self.model.spec.frame_rate
            )
            for number, row in enumerate(rows)
        ][::-1]
        timing = Timing(clips=len(rows), audio_s=sum(row.audio_s for row in rows))
        frames = 0
        with StepRecorder(self.model.decoder).recording() as recorder:
            begin = time.perf_counter()
            while waiting or self.engine.busy:
                while waiting and self.engine.room > 0:
                    self.engine.add(waiting.pop())
                for outcome in self.engine.step():
                    if not isinstance(outcome, Clip):
                        raise outcome.error
                    frames += outcome.codes.shape[1]
            timing.wall_s = time.perf_counter() - begin
        timing.peak_rss_mb = peak_rss_mb()
        if frames != sum(row.frames for row in rows):
            raise RuntimeError(
                f"the engine made {frames} frames instead of {sum(row.frames for row in rows)}: not the same work"
            )
        timing.steps = len(recorder.steps)
        timing.step_ms = recorder.durations_ms()
        timing.works = [vars_of(work) for work in recorder.works()[:-1]]
        timing.details = {"engine": self.engine.fingerprint, "slots": self.engine.slots}
        return timing
