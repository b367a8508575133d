"""The whole evaluation by one call: a corpus of its own, the model's clips, the judges, a report."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from musicgen.clip import Clip
from musicgen.evaluation.evaluation_report import Report
from musicgen.evaluation.extras import JUDGES, require
from musicgen.evaluation.measures import measure
from musicgen.evaluation.originals import write_originals
from musicgen.evaluation.reference import LESSONS, Reference

if TYPE_CHECKING:
    from musicgen.api import MusicGen

SECONDS = 10.0
Told = Callable[[str], None]


def evaluate(
    model: "MusicGen",
    name: str,
    output: Path,
    clips: int = 120,
    seed: int = 0,
    corpus: Path | None = None,
    processes: int = 2,
    told: Told = lambda text: None,
) -> Report:
    """Evaluate a model on `clips` unseen examples; `output` gets report.json, clips/*.flac and, unless a corpus is given, originals/.

    The same seed gives the same corpus and asks for the same clips. Raises `JobError`: an extra is missing, or `corpus` is none.
    """
    require(*(JUDGES if corpus else ()))
    began = time.monotonic()
    spec = model.spec
    seconds = min(SECONDS, spec.max_frames / spec.frame_rate)
    folder = corpus or write_originals(output / "originals", clips, LESSONS, seed, seconds, processes, told)
    reference = Reference.of(folder, clips, seed, seconds, processes, told=told)

    def keep(kind: str, number: int, clip: Clip) -> None:
        import soundfile

        from musicgen.audio.levels import limit_peak

        path = output / "clips" / f"{kind}-{number:03}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, limit_peak(clip.audio)[0].T, clip.sample_rate)

    measures = measure(model, reference, seed, told=told, keep=keep)
    about: dict[str, Any] = {
        "examples": len(reference.examples),
        "seed": seed,
        "clip_s": seconds,
        "prompts": [example.prompt for example in reference.examples],
        "took_s": round(time.monotonic() - began, 1),
    }
    report = Report(name, measures, about)
    report.write(output / "report.json")
    return report
