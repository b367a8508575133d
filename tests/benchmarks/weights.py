"""The weights both sides run: the true shape of facebook/musicgen-small, seeded random, in the published format.

Speed does not depend on the values. The T5 and EnCodec shapes are those of t5-base and facebook/encodec_32khz. The
tokenizer knows every word of the prompts as one piece, so that texts are about as long as T5's own would be (the
real vocabulary cannot be shipped).
"""

import json
import re
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.fixtures.random_checkpoint import Sizes, write_checkpoint

SEED = 2306
T5_VOCABULARY = 32_128
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "preprocessor_config.json")


@dataclass(frozen=True)
class Shape:
    """Sizes of decoder, text encoder and codec."""

    name: str
    hidden: int
    layers: int
    heads: int
    text_hidden: int
    text_layers: int
    text_heads: int
    codec_filters: int
    codec_hidden: int
    codebook_size: int = 2048

    @property
    def ffn(self) -> int:
        """Width of the feed-forward layer."""
        return 4 * self.hidden


SMALL = Shape("musicgen-small", 1024, 24, 16, 768, 12, 12, 64, 128)
MIDDLE = Shape("quarter-small", 512, 12, 8, 256, 4, 4, 16, 64)  # for the flow: fast enough for many clips in minutes
TINY = Shape("tiny", 32, 2, 4, 24, 2, 4, 4, 16, codebook_size=64)  # for the smoke test
SHAPES = {shape.name: shape for shape in (SMALL, MIDDLE, TINY)}


def prepare_checkpoint(cache: Path, shape: Shape, prompts: Iterable[str]) -> Path:
    """The folder of this shape's checkpoint inside `cache`; written once, the tokenizer again for other prompts."""
    folder = cache / shape.name
    if not (folder / "complete").exists():
        partial = cache / f"{shape.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _write_weights(partial, shape)
        _copy_preprocessor(partial)
        (partial / "complete").touch()
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    _write_tokenizer(folder, prompts)
    return folder


def _write_weights(folder: Path, shape: Shape) -> None:
    import torch
    from transformers import (
        EncodecConfig,
        MusicgenConfig,
        MusicgenDecoderConfig,
        MusicgenForConditionalGeneration,
        T5Config,
    )
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    size = shape.codebook_size
    config = MusicgenConfig(
        text_encoder=T5Config(
            vocab_size=T5_VOCABULARY,
            d_model=shape.text_hidden,
            d_kv=shape.text_hidden // shape.text_heads,
            d_ff=4 * shape.text_hidden,
            num_layers=shape.text_layers,
            num_heads=shape.text_heads,
        ),
        audio_encoder=EncodecConfig(
            sampling_rate=32_000,
            audio_channels=1,
            normalize=False,
            chunk_length_s=None,
            overlap=None,
            upsampling_ratios=[8, 5, 4, 4],
            target_bandwidths=[4 * 50 * (size.bit_length() - 1) / 1000],
            use_causal_conv=False,
            num_filters=shape.codec_filters,
            hidden_size=shape.codec_hidden,
            codebook_dim=shape.codec_hidden,
            codebook_size=size,
        ),
        decoder=MusicgenDecoderConfig(
            vocab_size=size,
            num_hidden_layers=shape.layers,
            hidden_size=shape.hidden,
            ffn_dim=shape.ffn,
            num_attention_heads=shape.heads,
            pad_token_id=size,
            bos_token_id=size,
        ),
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(SEED)
        model = MusicgenForConditionalGeneration(config).eval()
        for quantizer in model.audio_encoder.quantizer.layers:  # zeros as initialised: no sound to decode
            quantizer.codebook.embed.normal_()
            quantizer.codebook.embed_avg.copy_(quantizer.codebook.embed)
            quantizer.codebook.cluster_size.fill_(1.0)
    model.generation_config.update(
        bos_token_id=size,
        pad_token_id=size,
        decoder_start_token_id=size,
        do_sample=True,
        guidance_scale=3.0,
        max_length=1500,
    )
    model.save_pretrained(folder)


def _copy_preprocessor(folder: Path) -> None:
    """Feature extractor and tokenizer settings do not depend on the sizes: a tiny checkpoint's are right."""
    with tempfile.TemporaryDirectory() as scratch:
        tiny = write_checkpoint(Path(scratch) / "tiny", Sizes())
        for name in _TOKENIZER_FILES:
            if (tiny / name).exists():
                shutil.copy(tiny / name, folder / name)


def _write_tokenizer(folder: Path, prompts: Iterable[str]) -> None:
    from transformers import T5Tokenizer

    words = sorted({f"\u2581{word}" for prompt in prompts for word in prompt.split()})
    letters = sorted({letter for word in words for letter in word} | set("\u2581abcdefghijklmnopqrstuvwxyz"))
    known = folder / "words.json"
    if known.exists() and json.loads(known.read_text()) == words:
        return
    extra = [f"<extra_id_{i}>" for i in reversed(range(100))]
    room = T5_VOCABULARY - 3 - len(extra) - len(letters)
    pieces = [word for word in words if not re.fullmatch("\u2581?.", word)][:room]
    vocabulary = [(piece, 0.0) for piece in ("<pad>", "</s>", "<unk>")]
    vocabulary += [(piece, -9.0) for piece in pieces]
    vocabulary += [(letter, -12.0) for letter in letters]
    vocabulary += [(piece, 0.0) for piece in extra]
    T5Tokenizer(vocab=vocabulary, extra_ids=100, model_max_length=512).save_pretrained(folder)
    known.write_text(json.dumps(words))
