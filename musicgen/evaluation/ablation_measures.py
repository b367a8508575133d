"""Measures trained checkpoints for the table of the ablation of patterns."""

from collections.abc import Callable, Mapping
from pathlib import Path

from musicgen.api import MusicGen
from musicgen.evaluation.measures import measure_model
from musicgen.evaluation.reference import Reference

ABLATION_COLUMNS = {
    "Frechet distance": "frechet.text",
    "Frechet distance, with melody": "frechet.melody",
    "instrument right": "instrument.value",
    "tempo right": "tempo.value",
    "mode right": "mode.value",
    "melody agreement": "melody.value",
    "melody agreement by chance": "melody.chance",
}


def make_ablation_measure(
    corpus: Path, clips: int = 60, seed: int = 0, seconds: float = 10.0, processes: int = 2
) -> Callable[[Path], Mapping[str, float]]:
    """Make a function that measures the `ABLATION_COLUMNS` of a checkpoint's folder, on the same examples of `corpus`.

    The examples are unseen ones, analyzed at the function's first call. That call raises `JobError` if an extra is not
    installed or the folder is not a corpus.
    """
    references: list[Reference] = []

    def measure_checkpoint(checkpoint: Path) -> Mapping[str, float]:
        if not references:
            references.append(Reference.of(corpus, clips, seed, seconds, processes))
        with MusicGen.from_pretrained(str(checkpoint)) as model:
            measures = measure_model(model, references[0], seed, codec=False)
        return {label: round(measures[name], 4) for label, name in ABLATION_COLUMNS.items() if name in measures}

    return measure_checkpoint
