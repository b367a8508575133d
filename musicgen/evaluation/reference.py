"""Prepares the originals that a model is compared with: their features, and a classifier of instruments."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from musicgen.evaluation.examples import Example, draw_examples, read_examples
from musicgen.evaluation.extras import JUDGE_MODULES, require_extras
from musicgen.evaluation.features import (
    ClipFeatures,
    MelodyFeatures,
    extract_features,
    extract_melody,
    extract_timbre,
    map_sounds,
)
from musicgen.evaluation.instrument import InstrumentClassifier

CLASSIFIER_CLIPS = 480
"""How many originals of the split train the instrument classifier is trained on."""


@dataclass(frozen=True, slots=True)
class Reference:
    """Unseen examples (split test), the features of their originals and melodies, and the instrument classifier."""

    examples: Sequence[Example]
    originals: Sequence[ClipFeatures]
    melodies: Sequence[MelodyFeatures]
    classifier: InstrumentClassifier
    # [seconds, 96]: embeddings of as many clips of the split train, for the lowest Frechet distance to expect
    train_embeddings: NDArray[np.float32]
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
        training_clips: int = CLASSIFIER_CLIPS,
        on_message: Callable[[str], None] = lambda text: None,
    ) -> "Reference":
        """Extract the features of `clips` examples of the split test, and train the classifier on `training_clips`.

        The latter are examples of the split train. `on_message` is called with messages on the progress. Raises
        `JobError` if an extra is not installed or the folder is not a corpus.
        """
        require_extras(*JUDGE_MODULES)
        corpus_examples = read_examples(corpus)
        examples = draw_examples(corpus_examples, "test", clips, seed)
        training_examples = draw_examples(corpus_examples, "train", training_clips, seed)
        on_message(f"analyzing {len(training_examples)} originals to train the instrument classifier")
        timbres = map_sounds(extract_timbre, [example.audio for example in training_examples], seconds, processes)
        classifier = InstrumentClassifier(
            np.stack([timbre.instrument for timbre in timbres]), [example.instrument for example in training_examples]
        )
        on_message(f"analyzing {len(examples)} unseen originals")
        return cls(
            examples=examples,
            originals=map_sounds(extract_features, [example.audio for example in examples], seconds, processes),
            melodies=map_sounds(extract_melody, [example.melody for example in examples], seconds, processes),
            classifier=classifier,
            train_embeddings=np.concatenate([timbre.embedding for timbre in timbres[: len(examples)]]),
            seconds=seconds,
            processes=processes,
        )
