"""Evaluates a model with tools that were not used in its training.

`measure_model(model, reference)` measures a model on a `Reference` (unseen originals of a corpus, analyzed once).
`evaluate_model(model, name, folder)` makes the corpus, measures the model, and writes a report that compares the
measures with the bounds in `bounds.py`.
"""

from musicgen.evaluation.ablation_measures import make_ablation_measure
from musicgen.evaluation.evaluation import evaluate_model
from musicgen.evaluation.evaluation_report import EvaluationReport
from musicgen.evaluation.extras import JUDGE_MODULES, require_extras
from musicgen.evaluation.measures import Measures, measure_model
from musicgen.evaluation.reference import Reference

__all__ = [
    "JUDGE_MODULES",
    "EvaluationReport",
    "Measures",
    "Reference",
    "evaluate_model",
    "make_ablation_measure",
    "measure_model",
    "require_extras",
]
