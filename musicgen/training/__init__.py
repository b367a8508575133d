"""Trains a model by a recipe: data, codec, tokens, the training itself and its export as a checkpoint."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from musicgen.training.ablation import CheckpointMeasure, run_ablation
    from musicgen.training.log import format_progress
    from musicgen.training.recipe import Recipe, with_default_codec
    from musicgen.training.recipe_stages import run_recipe

__all__ = ["CheckpointMeasure", "Recipe", "format_progress", "run_ablation", "run_recipe", "with_default_codec"]

# A recipe is read and checked before transformers is imported, which takes seconds.
__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "ablation": ["CheckpointMeasure", "run_ablation"],
        "log": ["format_progress"],
        "recipe": ["Recipe", "with_default_codec"],
        "recipe_stages": ["run_recipe"],
    },
)
