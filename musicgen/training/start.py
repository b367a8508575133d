"""Writes the checkpoint that a training starts from, with random weights and a given codec.

A training always starts from a checkpoint, a published one or one that is written here. It keeps the config, tokenizer
and codec, trains the decoder, projections and text encoder, and exports the same files.
"""

import json
import math
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import save_file
from torch import Tensor

from musicgen.model.checkpoint.identity import PROCESSOR_FILES
from musicgen.model.checkpoint.resolve import Checkpoint, resolve_checkpoint
from musicgen.model.checkpoint.tensors import Tensors
from musicgen.model.spec_reader import parse_spec
from musicgen.model.text.tokenizer import load_tokenizer
from musicgen.training.network import Network
from musicgen.training.ticks import tick_tokens
from musicgen.value_types import JsonObject

# A tokenizer spells words that are not in its vocabulary with these.
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,;:!?'-()&#/"
EXTRA_IDS = 10  # sentinels of T5, which MusicGen does not use


class ModelSizes(BaseModel):
    """The sizes of a new model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["text", "melody"] = "melody"
    hidden: int = Field(default=256, ge=8)
    layers: int = Field(default=6, ge=1)
    heads: int = Field(default=4, ge=1)
    text_hidden: int = Field(default=128, ge=8)
    text_layers: int = Field(default=3, ge=1)
    text_heads: int = Field(default=4, ge=1)
    text_ffn: int = Field(default=256, ge=8)
    # Of the tokenizer: the most frequent words and numbers of the captions, letters and digits.
    vocabulary: int = Field(default=600, ge=120)
    positions: int = Field(default=504, ge=8)  # steps of a window: its frames and the pattern's delays
    chroma_length: int = Field(default=79, ge=1)  # pitch classes of a window, 7.8 a second
    # In melody models prompts are padded to this many positions, so that codes always begin at the same one. 0: not.
    text_length: int = Field(default=0, ge=0)
    # Positions before the prompt's words that encode where beats fall: `musicgen.training.ticks`.
    ticks: int = Field(default=0, ge=0, le=400)


@dataclass(frozen=True, slots=True, eq=False)
class StoredCodec:
    """The codec of a checkpoint: the section `audio_encoder` of config.json, and the tensors under that name."""

    section: JsonObject
    tensors: Mapping[str, Tensor]

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> "StoredCodec":
        """Read the codec of a checkpoint."""
        section = json.loads((checkpoint.folder / "config.json").read_text(encoding="utf-8"))["audio_encoder"]
        tensors = Tensors.open(checkpoint.folder).read("audio_encoder.")
        return cls(section, {f"audio_encoder.{name}": tensor for name, tensor in tensors.items()})


def write_initial_checkpoint(
    folder: Path,
    sizes: ModelSizes,
    codec: StoredCodec,
    prompts: Iterable[str],
    seed: int,
    pattern: str = "delay",
    teach: Callable[[Any, Any], object] | None = None,
) -> Checkpoint:
    """Write a checkpoint with random weights into `folder`, with a tokenizer of the prompts' words.

    `teach`, if given, is called with the text encoder and the tokenizer, to train the encoder. The same arguments give
    the same bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = _model_config(sizes, codec.section, pattern)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    _write_tokenizer(folder, sizes.vocabulary, prompts, sizes.ticks)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Network(parse_spec(config), config["text_encoder"])
    if teach is not None:
        teach(network.text_encoder, load_tokenizer(folder, network.text_encoder.config))
    save_file(
        {**network.published_tensors(), **{name: tensor.contiguous() for name, tensor in codec.tensors.items()}},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    return resolve_checkpoint(folder)


def copy_small_files(source: Path, target: Path) -> None:
    """Copy the tokenizer and the settings of a checkpoint, without its weights and config."""
    for name in ("generation_config.json", *PROCESSOR_FILES):
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def _model_config(sizes: ModelSizes, codec: JsonObject, pattern: str) -> JsonObject:
    from transformers import MusicgenDecoderConfig, MusicgenMelodyDecoderConfig, T5Config

    melody = sizes.kind == "melody"
    text = T5Config(
        vocab_size=sizes.vocabulary + sizes.ticks,
        d_model=sizes.text_hidden,
        d_kv=sizes.text_hidden // sizes.text_heads,
        d_ff=sizes.text_ffn,
        num_layers=sizes.text_layers,
        num_heads=sizes.text_heads,
        dropout_rate=0.0,
    )
    codebook_size = codec["codebook_size"]
    padding_settings = {"text_length": sizes.text_length} if sizes.text_length else {}
    decoder = (MusicgenMelodyDecoderConfig if melody else MusicgenDecoderConfig)(
        vocab_size=codebook_size,
        max_position_embeddings=sizes.positions,
        num_hidden_layers=sizes.layers,
        ffn_dim=4 * sizes.hidden,
        num_attention_heads=sizes.heads,
        hidden_size=sizes.hidden,
        num_codebooks=codec.get("num_quantizers", 4),
        audio_channels=1,
        dropout=0.0,
        pad_token_id=codebook_size,
        bos_token_id=codebook_size,
    )
    config = {
        "architectures": ["MusicgenMelodyForConditionalGeneration" if melody else "MusicgenForConditionalGeneration"],
        "model_type": "musicgen_melody" if melody else "musicgen",
        "is_encoder_decoder": True,
        "text_encoder": text.to_dict(),
        "audio_encoder": dict(codec),
        "decoder": decoder.to_dict() | ({} if pattern == "delay" else {"codebook_pattern": pattern}),
    }
    return config | ({"num_chroma": 12, "chroma_length": sizes.chroma_length} | padding_settings if melody else {})


def _write_tokenizer(folder: Path, vocabulary_size: int, prompts: Iterable[str], ticks: int) -> None:
    """Write a T5 (Unigram) tokenizer with the most frequent words and numbers of the prompts, and ticks.

    Other words are spelled by letters. The ticks come before every prompt.
    """
    from transformers import PreTrainedTokenizerFast, T5Tokenizer

    counts = Counter(word for prompt in prompts for word in re.findall(r"[A-Za-z]+(?:[#'-][A-Za-z]+)*|[0-9]+", prompt))
    special, extra = ["<pad>", "</s>", "<unk>"], [f"<extra_id_{index}>" for index in reversed(range(EXTRA_IDS))]
    letters = ["\u2581", *LETTERS]
    words = sorted(counts, key=lambda word: (-counts[word], word))[
        : vocabulary_size - len(special) - len(extra) - len(letters)
    ]
    vocabulary = [(piece, 0.0) for piece in special]
    vocabulary += [(f"\u2581{word}", round(-math.log(rank + 2), 4)) for rank, word in enumerate(words)]
    vocabulary += [(letter, -12.0) for letter in letters]
    vocabulary += [(piece, 0.0) for piece in extra]
    tokenizer = T5Tokenizer(vocab=vocabulary, extra_ids=EXTRA_IDS, model_max_length=512)
    if not ticks:
        tokenizer.save_pretrained(folder)
        return
    from tokenizers.processors import TemplateProcessing

    # T5Tokenizer restores its own template when it is loaded; the plain class keeps the template of the file.
    backend, tokens = tokenizer.backend_tokenizer, tick_tokens(ticks)
    backend.add_special_tokens(tokens)
    names = [*tokens, "</s>"]
    backend.post_processor = TemplateProcessing(
        single=[*tokens, "$A", "</s>"], special_tokens=[(name, backend.token_to_id(name)) for name in names]
    )
    named = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=512, **named).save_pretrained(folder)
