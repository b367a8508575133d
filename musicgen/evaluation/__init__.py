"""Judging a model with tools that did not train it.

`measure_model(model, reference)` gives a model's measures on a `Reference` (unseen originals of a corpus, heard once);
`evaluate_model(model, name, folder)` makes the corpus, measures, and writes a report against the bounds of `bounds.py`.
"""

from musicgen.evaluation.ablation_measures import make_ablation_measure
from musicgen.evaluation.evaluation import evaluate_model
from musicgen.evaluation.evaluation_report import EvaluationReport
from musicgen.evaluation.measures import Measures, measure_model
from musicgen.evaluation.reference import Reference

__all__ = ["EvaluationReport", "Measures", "Reference", "evaluate_model", "make_ablation_measure", "measure_model"]
