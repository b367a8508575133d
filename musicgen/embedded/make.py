"""Small random checkpoints in the published Hugging Face format: the embedded model, and the ones that tests load.

`python -m musicgen.embedded.make` writes the embedded checkpoint again, byte for byte (same versions, same machine kind).
The weights are random, so the sound is noise; shapes, files and names are those of `facebook/musicgen-*`.
"""

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import nn
    from transformers import EncodecModel


# Words of our own for the tokenizer: what prompts about music are made of.
WORDS = """
a an and the of with in on to for by at is slow fast steady driving gentle warm cold bright dark soft loud quiet heavy
light deep rich thin wide mellow dreamy nostalgic hopeful sad happy melancholic tense calm epic intimate playful solemn
groovy funky jazzy acoustic electric electronic ambient orchestral cinematic vintage modern analog digital distorted
clean muted plucked bowed piano guitar bass drums violin cello viola flute clarinet saxophone trumpet trombone horn harp
organ synth synthesizer pad lead arpeggio choir strings brass woodwinds percussion kick snare hihat cymbal tambourine
shaker conga bongo marimba vibraphone accordion banjo mandolin ukulele sitar tabla koto harmonica bell chime
glockenspiel rhodes wurlitzer celesta theremin rock pop jazz blues soul funk disco house techno trance dubstep drum
reggae ska folk country bluegrass metal punk classical baroque romantic minimal waltz march tango samba bossa nova salsa
flamenco lullaby hymn gospel hiphop trap lofi lo fi chill melody harmony chord progression rhythm groove beat tempo bpm
swing syncopated loop drone texture reverb delay echo tape hiss minor major key scale solo duet trio quartet ensemble
band instrumental vocal humming whistle handclaps claps field recording rain wind ocean forest night morning summer
winter city street festival dance floor film game trailer advert background theme opening ending verse chorus bridge
build drop crescendo fade staccato legato tremolo vibrato pizzicato fingerpicked strummed
"""
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,;:!?'-()&#/"
EXTRA_IDS = 10


@dataclass(frozen=True)
class Sizes:
    """What a checkpoint is made of. Defaults are a model for tests: well under 2 MB, 32 kHz, 50 frames a second."""

    kind: Literal["text", "melody"] = "text"
    channels: int = 1
    hidden: int = 32
    layers: int = 2
    heads: int = 4
    ffn: int = 64
    codebook_size: int = 64  # a power of two
    max_positions: int = 2048
    text_hidden: int = 24
    text_layers: int = 2
    codec_filters: int = 4
    codec_hidden: int = 16
    vocabulary: int = 400
    half: bool = False  # store float16

    @property
    def codebooks(self) -> int:
        """Decoder codebooks: four a channel, as in the released checkpoints."""
        return 4 * self.channels


EMBEDDED = Sizes(hidden=128, layers=4, heads=4, ffn=512, codebook_size=256, text_hidden=64, codec_filters=8, codec_hidden=32, half=True)
EMBEDDED_PEAK = 0.5


def write_checkpoint(folder: Path, sizes: Sizes, seed: int = 0) -> Path:
    """Write a random checkpoint of these sizes into `folder`: weights, configs, tokenizer, preprocessor. Returns `folder`."""
    import torch
    from transformers import MusicgenForConditionalGeneration, MusicgenMelodyForConditionalGeneration
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    config = _config(sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = (MusicgenMelodyForConditionalGeneration if sizes.kind == "melody" else MusicgenForConditionalGeneration)(config).eval()
        _randomise(model)
        _level(model.audio_encoder, sizes)
    if sizes.half:
        model.half()
    # Generation settings of the released checkpoints.
    special = sizes.codebook_size
    model.generation_config.update(
        bos_token_id=special, pad_token_id=special, decoder_start_token_id=special, do_sample=True, guidance_scale=3.0, max_length=1500
    )
    model.save_pretrained(folder)
    write_tokenizer(folder, sizes.vocabulary)
    _write_preprocessor(folder, sizes)
    return folder


def _config(sizes: Sizes) -> Any:
    from transformers import (
        EncodecConfig,
        MusicgenConfig,
        MusicgenDecoderConfig,
        MusicgenMelodyConfig,
        MusicgenMelodyDecoderConfig,
        T5Config,
    )

    text = T5Config(
        vocab_size=sizes.vocabulary,
        d_model=sizes.text_hidden,
        d_kv=8,
        d_ff=2 * sizes.text_hidden,
        num_layers=sizes.text_layers,
        num_heads=4,
        dropout_rate=0.0,
    )
    codec = EncodecConfig(  # as facebook/encodec_32khz, but for its widths
        sampling_rate=32_000,
        audio_channels=1,
        normalize=False,
        chunk_length_s=None,
        overlap=None,
        upsampling_ratios=[8, 5, 4, 4],
        target_bandwidths=[4 * 50 * math.log2(sizes.codebook_size) / 1000],
        use_causal_conv=False,
        use_conv_shortcut=False,
        num_filters=sizes.codec_filters,
        hidden_size=sizes.codec_hidden,
        codebook_dim=sizes.codec_hidden,
        codebook_size=sizes.codebook_size,
    )
    melody = sizes.kind == "melody"
    decoder = (MusicgenMelodyDecoderConfig if melody else MusicgenDecoderConfig)(
        vocab_size=sizes.codebook_size,
        max_position_embeddings=sizes.max_positions,
        num_hidden_layers=sizes.layers,
        ffn_dim=sizes.ffn,
        num_attention_heads=sizes.heads,
        hidden_size=sizes.hidden,
        num_codebooks=sizes.codebooks,
        audio_channels=sizes.channels,
        pad_token_id=sizes.codebook_size,
        bos_token_id=sizes.codebook_size,
    )
    if melody:
        return MusicgenMelodyConfig(text_encoder=text, audio_encoder=codec, decoder=decoder, num_chroma=12, chroma_length=235)
    return MusicgenConfig(text_encoder=text, audio_encoder=codec, decoder=decoder)


def _randomise(model: "nn.Module") -> None:
    """Fill transformers with noise of unit gain: logits that differ clearly, codes that do not settle on one value."""
    import torch

    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.startswith("audio_encoder."):
                continue
            if "norm" in name:
                weight.normal_(1.0, 0.1) if name.endswith("weight") else weight.normal_(0.0, 0.1)
            elif "embed" in name or "shared" in name:
                weight.normal_(0.0, 1.0)
            elif weight.ndim == 2:
                weight.normal_(0.0, weight.shape[1] ** -0.5)
            else:
                weight.normal_(0.0, 0.1)
        # Sharper heads: neighbours on the greedy path stay far apart, so that rounding decides nothing.
        for name, weight in model.named_parameters():
            if "lm_heads" in name:
                weight.mul_(2.0)


def _level(codec: "EncodecModel", sizes: Sizes) -> None:
    """Random codebooks, each finer than the one before; sound that peaks at EMBEDDED_PEAK; latents that the codebooks span."""
    import torch

    with torch.no_grad():
        for k, quantizer in enumerate(codec.quantizer.layers):
            quantizer.codebook.embed.normal_(0.0, 0.6**k)
            quantizer.codebook.embed_avg.copy_(quantizer.codebook.embed)
            quantizer.codebook.cluster_size.fill_(1.0)
        codes = torch.randint(sizes.codebook_size, (1, 1, 4, 200))
        last = codec.decoder.layers[-1].conv
        last.bias.zero_()
        audio = codec.decode(codes, [None]).audio_values
        gain = EMBEDDED_PEAK / float(audio.abs().max())
        last.parametrizations.weight.original0.mul_(gain)
        for name, weight in codec.encoder.named_parameters():
            if "bias" in name:
                weight.zero_()  # what it hears counts, not what it adds
        latents = codec.encoder(audio * gain)[0]  # [dim, frames]
        last = codec.encoder.layers[-1].conv
        gains = 1.0 / latents.std(dim=-1)
        last.parametrizations.weight.original0.mul_(gains[:, None, None])
        last.bias.sub_(latents.mean(dim=-1)).mul_(gains)


def write_tokenizer(folder: Path, vocabulary_size: int) -> None:
    """A T5 (Unigram) tokenizer: our words whole, everything else by letters; deterministic, unlike a trained one."""
    from transformers import T5Tokenizer

    special = ["<pad>", "</s>", "<unk>"]
    extra = [f"<extra_id_{i}>" for i in reversed(range(EXTRA_IDS))]
    letters = ["\u2581", *LETTERS]
    words = [f"\u2581{word}" for word in dict.fromkeys(WORDS.split())]
    words = [word for word in words if len(word) > 2][: vocabulary_size - len(special) - len(extra) - len(letters)]
    vocabulary = [(piece, 0.0) for piece in special]
    vocabulary += [(word, round(-math.log(rank + 2), 4)) for rank, word in enumerate(words)]
    vocabulary += [(letter, -12.0) for letter in letters]
    vocabulary += [(piece, 0.0) for piece in extra]
    T5Tokenizer(vocab=vocabulary, extra_ids=EXTRA_IDS, model_max_length=512).save_pretrained(folder)


def _write_preprocessor(folder: Path, sizes: Sizes) -> None:
    features: dict[str, Any] = {
        "feature_extractor_type": "EncodecFeatureExtractor",
        "feature_size": 1,
        "sampling_rate": 32_000,
        "padding_side": "left",
        "padding_value": 0.0,
        "return_attention_mask": True,
        "chunk_length_s": None,
        "overlap": None,
        "processor_class": "MusicgenProcessor",
    }
    if sizes.kind == "melody":
        features |= {
            "feature_extractor_type": "MusicgenMelodyFeatureExtractor",
            "processor_class": "MusicgenMelodyProcessor",
            "n_fft": 16384,
            "hop_length": 4096,
            "num_chroma": 12,
            "chroma_length": 235,
            "stem_indices": [3, 2],
            "chunk_length": 30,
            "n_samples": 960_000,
        }
        features["padding_side"] = "right"
    if sizes.channels == 2:
        features["feature_size"] = 2
    (folder / "preprocessor_config.json").write_text(json.dumps(features, indent=2, sort_keys=True) + "\n")


def main() -> None:
    """Write the embedded checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent / "checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    write_checkpoint(arguments.folder, EMBEDDED, arguments.seed)
    for path in sorted(arguments.folder.iterdir()):
        print(f"{path.stat().st_size:>10}  {path.name}")


if __name__ == "__main__":
    main()
