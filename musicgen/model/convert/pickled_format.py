"""Converts pytorch_model*.bin: the published format already, but for the pickles."""

from pathlib import Path

from musicgen.model.checkpoint.identity import PROCESSOR_FILES
from musicgen.model.convert.converted import Converted, existing_files, whole
from musicgen.model.convert.pickles import Weights, open_weights

# T5 stores its table of tokens twice in a pickle, and once in safetensors.
_TABLE, _TABLE_ALIAS = "text_encoder.shared.weight", "text_encoder.encoder.embed_tokens.weight"


def convert_pickled(source: Path) -> Converted:
    """Convert a folder of transformers' format: the same tensors under the same names. Raises `ModelError`."""
    weights = open_weights(source)
    names = [name for name in weights if name != _TABLE_ALIAS or not _is_table_twice(weights)]
    copies = existing_files(source, ("config.json", "generation_config.json", *PROCESSOR_FILES))
    return Converted({name: whole(weights, name) for name in names}, copies=copies)


def _is_table_twice(weights: Weights) -> bool:
    return _TABLE in weights and weights[_TABLE].data_ptr() == weights[_TABLE_ALIAS].data_ptr()
