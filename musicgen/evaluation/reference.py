"""The originals as the judges hear them: what a model is asked for, what the timbre is learnt from, and the ceiling of
every measure.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from musicgen.evaluation import examples as material
from musicgen.evaluation import features as heard
from musicgen.evaluation.examples import Example
from musicgen.evaluation.extras import JUDGE_MODULES, require_extras
from musicgen.evaluation.features import ClipFeatures, MelodyFeatures
from musicgen.evaluation.instrument import InstrumentClassifier

CLASSIFIER_CLIPS = 480
"""How many originals of the train split the timbre is learnt from."""


@dataclass(frozen=True, slots=True)
class Reference:
    """Unseen examples (split test), how their originals and melodies sound, and the judge of timbre."""

    examples: Sequence[Example]
    originals: Sequence[ClipFeatures]
    melodies: Sequence[MelodyFeatures]
    classifier: InstrumentClassifier
    train_embeddings: NDArray[
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
        lessons: int = CLASSIFIER_CLIPS,
        on_message: Callable[[str], None] = lambda text: None,
    ) -> "Reference":
        """Listen to `clips` examples of the corpus' test split, after learning the instruments from `lessons` of its
        train split.

        `on_message` gets a line now and then. Raises `JobError`: an extra is not installed, or the folder is no corpus.
        """
        require_extras(*JUDGE_MODULES)
        known = material.read_examples(corpus)
        examples = material.draw_examples(known, "test", clips, seed)
        taught = material.draw_examples(known, "train", lessons, seed)
        on_message(f"the judge of timbre hears {len(taught)} originals")
        timbres = heard.map_sounds(heard.extract_timbre, [example.audio for example in taught], seconds, processes)
        classifier = InstrumentClassifier(
            np.stack([timbre.instrument for timbre in timbres]), [example.instrument for example in taught]
        )
        on_message(f"the judges hear {len(examples)} unseen originals")
        return cls(
            examples=examples,
            originals=heard.map_sounds(
                heard.extract_features, [example.audio for example in examples], seconds, processes
            ),
            melodies=heard.map_sounds(
                heard.extract_melody, [example.melody for example in examples], seconds, processes
            ),
            classifier=classifier,
            train_embeddings=np.concatenate([timbre.embedding for timbre in timbres[: len(examples)]]),
            seconds=seconds,
            processes=processes,
        )
