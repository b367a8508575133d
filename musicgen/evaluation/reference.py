"""The originals as the judges hear them: what a model is asked for, what the timbre is learnt from, and the ceiling of every measure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from musicgen.evaluation import examples as material
from musicgen.evaluation import features as heard
from musicgen.evaluation.examples import Example
from musicgen.evaluation.extras import JUDGES, require
from musicgen.evaluation.features import Heard, Tune
from musicgen.evaluation.instrument import Timbre

LESSONS = 480
"""How many originals of the train split the timbre is learnt from."""


@dataclass(frozen=True, slots=True)
class Reference:
    """Unseen examples (split test), how their originals and melodies sound, and the judge of timbre."""

    examples: Sequence[Example]
    originals: Sequence[Heard]
    melodies: Sequence[Tune]
    timbre: Timbre
    others: NDArray[
        np.float32
    ]  # [seconds, 96]: embeddings of as many clips of the train split, for the floor of the Frechet distance
    seconds: float
    processes: int = 2

    @classmethod
    def of(
        cls,
        corpus: Path,
        clips: int = 120,
        seed: int = 0,
        seconds: float = 10.0,
        processes: int = 2,
        lessons: int = LESSONS,
        told: Callable[[str], None] = lambda text: None,
    ) -> "Reference":
        """Listen to `clips` examples of the corpus' test split, after learning the instruments from `lessons` of its train split.

        `told` gets a line now and then. Raises `JobError`: an extra is not installed, or the folder is no corpus.
        """
        require(*JUDGES)
        known = material.read(corpus)
        examples = material.choose(known, "test", clips, seed)
        taught = material.choose(known, "train", lessons, seed)
        told(f"the judge of timbre hears {len(taught)} originals")
        colours = heard.each(heard.colour, [example.audio for example in taught], seconds, processes)
        timbre = Timbre(np.stack([colour.timbre for colour in colours]), [example.instrument for example in taught])
        told(f"the judges hear {len(examples)} unseen originals")
        return cls(
            examples=examples,
            originals=heard.each(heard.listen, [example.audio for example in examples], seconds, processes),
            melodies=heard.each(heard.tune, [example.melody for example in examples], seconds, processes),
            timbre=timbre,
            others=np.concatenate([colour.embedding for colour in colours[: len(examples)]]),
            seconds=seconds,
            processes=processes,
        )
