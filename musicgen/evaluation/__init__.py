"""Judging a model with tools that did not train it.

`measure(model, reference)` gives a model's measures on a `Reference` (unseen originals of a corpus, heard once);
`evaluate(model, name, folder)` makes the corpus, measures, and writes a report against the bounds of `bounds.py`.
"""

from musicgen.evaluation.ablation_measures import columns
from musicgen.evaluation.evaluation import evaluate
from musicgen.evaluation.evaluation_report import Report
from musicgen.evaluation.measures import Measures, measure
from musicgen.evaluation.reference import Reference

__all__ = ["Measures", "Reference", "Report", "columns", "evaluate", "measure"]
