"""Models with random weights, built on the device: transformers' MusicGen, and our decoder over the same tensors."""

from dataclasses import dataclass
from typing import Any

import torch

from musicgen.model.decoder.decoder import Decoder
from musicgen.model.spec import ModelSpec
from tests.cuda_trace.models import make_spec


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder."""

    name: str
    hidden: int
    heads: int
    layers: int
    codebook_size: int = 2048

    @property
    def spec(self) -> ModelSpec:
        """The same as our decoder's sizes."""
        import dataclasses

        sizes = {"hidden": self.hidden, "heads": self.heads, "layers": self.layers, "ffn": 4 * self.hidden}
        return dataclasses.replace(make_spec("small"), codebook_size=self.codebook_size, **sizes)


PUBLISHED = (Shape("small", 1024, 16, 24), Shape("medium", 1536, 24, 48), Shape("large", 2048, 32, 48))
TINY = (Shape("tiny", 32, 2, 1, codebook_size=64),)


def build_peer(shape: Shape, device: torch.device, dtype: torch.dtype) -> Any:
    """transformers' model with this decoder, and a text encoder and a codec that cost next to nothing."""
    from transformers import EncodecConfig, MusicgenConfig, MusicgenForConditionalGeneration, T5Config
    from transformers.models.musicgen.configuration_musicgen import MusicgenDecoderConfig

    decoder = MusicgenDecoderConfig(
        vocab_size=shape.codebook_size,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        ffn_dim=4 * shape.hidden,
        max_position_embeddings=2048,
        num_codebooks=4,
        pad_token_id=shape.codebook_size,
        bos_token_id=shape.codebook_size,
    )
    text = T5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4)
    codec = EncodecConfig(
        sampling_rate=32_000, num_filters=4, hidden_size=16, codebook_size=shape.codebook_size, codebook_dim=16,
        upsampling_ratios=[8, 5, 4, 4], target_bandwidths=[2.2], num_lstm_layers=1, use_causal_conv=False,
    )  # fmt: skip
    config = (
        MusicgenConfig.from_sub_models_config(text, codec, decoder)
        if hasattr(MusicgenConfig, "from_sub_models_config")
        else MusicgenConfig(text_encoder=text.to_dict(), audio_encoder=codec.to_dict(), decoder=decoder.to_dict())
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    torch.manual_seed(0)
    try:
        with device:
            model = MusicgenForConditionalGeneration(config).eval()
    finally:
        torch.set_default_dtype(before)
    model.generation_config.update(
        pad_token_id=shape.codebook_size, bos_token_id=shape.codebook_size, decoder_start_token_id=shape.codebook_size
    )
    return model


def build_decoder(shape: Shape, peer: Any, device: torch.device, dtype: torch.dtype) -> Decoder:
    """Our decoder with the peer's weights."""
    return Decoder.from_state_dict(shape.spec, peer.decoder.state_dict(), device, dtype)
