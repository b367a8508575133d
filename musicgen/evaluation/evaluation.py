"""Evaluates a model in one call: makes a corpus, generates and measures clips, and writes a report."""

import time
from collections.abc import Callable
from pathlib import Path

from musicgen.api import MusicGen
from musicgen.audio.levels import limit_peak
from musicgen.clip import Clip
from musicgen.evaluation.evaluation_report import EvaluationReport
from musicgen.evaluation.extras import JUDGE_MODULES, require_extras
from musicgen.evaluation.measures import measure_model
from musicgen.evaluation.originals import write_originals
from musicgen.evaluation.reference import CLASSIFIER_CLIPS, Reference

SECONDS = 10.0
MessageCallback = Callable[[str], None]


def evaluate_model(
    model: MusicGen,
    name: str,
    output: Path,
    clips: int = 120,
    seed: int = 0,
    corpus: Path | None = None,
    processes: int = 2,
    on_message: MessageCallback = lambda text: None,
) -> EvaluationReport:
    """Evaluate a model on `clips` unseen examples.

    Writes report.json, clips/*.flac and, unless a corpus is given, originals/ into `output`. The same seed gives the
    same corpus and the same requests. Raises `JobError` if an extra is not installed or `corpus` is not a corpus.
    """
    require_extras(*(JUDGE_MODULES if corpus else ()))
    started_at = time.monotonic()
    spec = model.spec
    seconds = min(SECONDS, spec.max_frames / spec.frame_rate)
    folder = corpus or write_originals(
        output / "originals", clips, CLASSIFIER_CLIPS, seed, seconds, processes, on_message
    )
    reference = Reference.of(folder, clips, seed, seconds, processes, on_message=on_message)

    def save_clip(kind: str, number: int, clip: Clip) -> None:
        import soundfile

        path = output / "clips" / f"{kind}-{number:03}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, limit_peak(clip.audio)[0].T, clip.sample_rate)

    measures = measure_model(model, reference, seed, on_message=on_message, on_clip=save_clip)
    details: dict[str, object] = {
        "examples": len(reference.examples),
        "seed": seed,
        "clip_s": seconds,
        "prompts": [example.prompt for example in reference.examples],
        "took_s": round(time.monotonic() - started_at, 1),
    }
    report = EvaluationReport(name, measures, details)
    report.write(output / "report.json")
    return report
