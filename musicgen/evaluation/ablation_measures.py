"""The measures that compare trainings: what the ablation of patterns shows beside loss and speed."""

from collections.abc import Callable, Mapping
from pathlib import Path

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
    """A function from a checkpoint's folder to `COLUMNS`, all on the same unseen examples of `corpus`.

    The examples are heard at its first call. Raises `JobError` there: an extra is missing, or the folder is no corpus.
    """
    heard: list[Reference] = []

    def measured(checkpoint: Path) -> Mapping[str, float]:
        from musicgen.api import MusicGen

        if not heard:
            heard.append(Reference.of(corpus, clips, seed, seconds, processes))
        with MusicGen.from_pretrained(str(checkpoint)) as model:
            found = measure_model(model, heard[0], seed, codec=False)
        return {words: round(found[name], 4) for words, name in ABLATION_COLUMNS.items() if name in found}

    return measured
