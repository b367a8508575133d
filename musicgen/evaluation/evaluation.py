"""The whole evaluation by one call: a corpus of its own, the model's clips, the judges, a report."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from musicgen.clip import Clip
from musicgen.evaluation.evaluation_report import EvaluationReport
from musicgen.evaluation.extras import JUDGE_MODULES, require_extras
from musicgen.evaluation.measures import measure_model
from musicgen.evaluation.originals import write_originals
from musicgen.evaluation.reference import CLASSIFIER_CLIPS, Reference

if TYPE_CHECKING:
    from musicgen.api import MusicGen

SECONDS = 10.0
MessageCallback = Callable[[str], None]


def evaluate_model(
    model: "MusicGen",
    name: str,
    output: Path,
    clips: int = 120,
    seed: int = 0,
    corpus: Path | None = None,
    processes: int = 2,
    on_message: MessageCallback = lambda text: None,
) -> EvaluationReport:
    """Evaluate a model on `clips` unseen examples; `output` gets report.json, clips/*.flac and, unless a corpus is
    given, originals/.

    The same seed gives the same corpus and asks for the same clips. Raises `JobError`: an extra is missing, or `corpus`
    is none.
    """
    require_extras(*(JUDGE_MODULES if corpus else ()))
    began = time.monotonic()
    spec = model.spec
    seconds = min(SECONDS, spec.max_frames / spec.frame_rate)
    folder = corpus or write_originals(
        output / "originals", clips, CLASSIFIER_CLIPS, seed, seconds, processes, on_message
    )
    reference = Reference.of(folder, clips, seed, seconds, processes, on_message=on_message)

    def keep(kind: str, number: int, clip: Clip) -> None:
        import soundfile

        from musicgen.audio.levels import limit_peak

        path = output / "clips" / f"{kind}-{number:03}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, limit_peak(clip.audio)[0].T, clip.sample_rate)

    measures = measure_model(model, reference, seed, on_message=on_message, keep=keep)
    about: dict[str, Any] = {
        "examples": len(reference.examples),
        "seed": seed,
        "clip_s": seconds,
        "prompts": [example.prompt for example in reference.examples],
        "took_s": round(time.monotonic() - began, 1),
    }
    report = EvaluationReport(name, measures, about)
    report.write(output / "report.json")
    return report
