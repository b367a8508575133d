"""Defines the network to train: text encoder and decoder, with the tensor names of the published format.

The steps that `musicgen.model.decoder.decoder` computes one after the other are here one causal, teacher-forced pass
(Copet et al. 2023, section 3.1). Rows have the layout of the engine: in a melody model [chroma, text, codes] without a
gap, with positions counted from the first chroma position. So the padding of a row is at its end, where causal
attention does not reach it. In a text model the codes attend to the text by cross-attention. A dropped text becomes
zeros and a dropped melody pitch class 0, which are the null conditions of `musicgen.conditioning.conditioner`.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from musicgen.model.checkpoint.tensors import Tensors, load_parameters
from musicgen.model.decoder.decoder import sinusoidal_positions
from musicgen.model.spec import ModelSpec
from musicgen.training.batch import Batch
from musicgen.training.decoder_modules import DecoderWithHeads
from musicgen.training.loss import cross_entropy

# T5's table of embeddings has two names, of which checkpoints hold one.
_TABLE, _TABLE_ALIAS = "text_encoder.shared.weight", "text_encoder.encoder.embed_tokens.weight"
_INITIAL_DEVIATION = 0.02
_EMBEDDING_DEVIATION = 0.3  # so that the sum of four is about as large as the sinusoids that are added to it


class Network(nn.Module):
    """Text encoder, projections and decoder, with the parameter names of a published checkpoint without its codec.

    `text` is the config of a T5 encoder (`text_encoder` of config.json). Raises ValueError for style and CLAP
    checkpoints, which cannot be trained here.
    """

    sinusoids: Tensor

    def __init__(self, spec: ModelSpec, text: dict[str, object]):
        super().__init__()
        from transformers import T5Config, T5EncoderModel

        if spec.kind not in ("text", "melody") or spec.text_encoder != "t5":
            raise ValueError(
                f"only text and melody models with a T5 encoder can be trained, not {spec.kind} with "
                f"{spec.text_encoder}"
            )
        self.spec = spec
        self.text_encoder = T5EncoderModel._from_config(T5Config(**text), attn_implementation="eager")
        if spec.text_projection:
            self.enc_to_dec_proj = nn.Linear(spec.text_dim, spec.hidden)
        if spec.chroma_projection:
            self.audio_enc_to_dec_proj = nn.Linear(spec.chroma_bins, spec.hidden)
        self.decoder = DecoderWithHeads(spec)
        self.register_buffer("sinusoids", sinusoidal_positions(spec.max_positions, spec.hidden), persistent=False)
        self._initialize()

    def forward(self, batch: Batch, shares: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Compute the mean cross-entropy of the batch's codes, and each codebook's, float32 [codebooks], detached.

        `shares` [codebooks] are the codebooks' weights in the mean; None: equal weights.
        """
        heads = torch.cat(
            [head.get_parameter("weight") for head in self.decoder.lm_heads]
        )  # one product instead of four
        return cross_entropy(
            self.states(batch).flatten(0, 1), heads, batch.targets.transpose(1, 2).flatten(0, 1), shares
        )

    def logits(self, batch: Batch) -> Tensor:
        """Compute each step's logits of the next one: [B, steps - 1, codebooks, codebook_size]."""
        states = self.states(batch)
        return torch.stack([head(states) for head in self.decoder.lm_heads], dim=2)

    def states(self, batch: Batch) -> Tensor:
        """Compute the normalized states at the clips' steps: [B, steps - 1, hidden]."""
        transformer = self.decoder.model.decoder
        states, text, code_starts = self.embed(batch)
        mask = None
        if self.spec.kind == "text":
            # A dropped text is zeros, and attention to zeros adds exactly zero.
            mask = torch.arange(text.shape[1], device=states.device) < batch.text_lengths[:, None]
        for layer in transformer.layers:
            states = layer(states, None if mask is None else text, mask)
        if code_starts is not None:
            code_positions = code_starts[:, None] + torch.arange(batch.inputs.shape[2], device=states.device)
            states = states.flatten(0, 1)[
                code_positions + torch.arange(len(states), device=states.device)[:, None] * states.shape[1]
            ]
        return transformer.layer_norm(states)

    def embed(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        """Compute the first layer's inputs [B, N, hidden] and the projected text states [B, S, hidden].

        For melody models also returns the positions at which the codes begin, [B], else None.
        """
        spec = self.spec
        tables = self.decoder.model.decoder.embed_tokens
        states = torch.stack([table(batch.inputs[:, codebook]) for codebook, table in enumerate(tables)]).sum(
            0
        )  # [B, L, hidden]
        text = self._text_states(batch)  # [B, S, hidden]
        code_starts: Tensor | None = None
        if spec.kind == "melody":
            melody = F.embedding(batch.pitch_classes, self._chroma_table())  # [B, P, hidden]
            code_starts = melody.shape[1] + batch.text_lengths
            states = _close_gap(torch.cat([melody, text, states], dim=1), code_starts, melody.shape[1] + text.shape[1])
        return states + self._positions(states.shape[1]), text, code_starts

    def published_tensors(self) -> dict[str, Tensor]:
        """Return the tensors that a checkpoint holds; T5's table is there under one of its names."""
        return {
            name: tensor.detach().contiguous() for name, tensor in self.state_dict().items() if name != _TABLE_ALIAS
        }

    def load(self, tensors: Tensors) -> None:
        """Load the weights of a checkpoint. Raises `ModelError` if one is missing or has another shape."""
        prefixes = ("text_encoder.", "decoder.", "enc_to_dec_proj.", "audio_enc_to_dec_proj.")
        weights = {
            name: tensors.view("", "cpu", torch.float32)[name] for name in tensors.names() if name.startswith(prefixes)
        }
        table = weights.get(_TABLE, weights.get(_TABLE_ALIAS))
        if table is not None:
            weights |= {_TABLE: table, _TABLE_ALIAS: table}
        load_parameters(self, weights, str(tensors.folder))

    def _text_states(self, batch: Batch) -> Tensor:
        """Compute the projected text states [B, S, hidden]; zeros where the text is dropped, and beyond its length."""
        mask = batch.text != 0  # [B, S]; 0 pads
        mask[:, 0] = True  # because the softmax of a row without any token would be NaN
        with torch.autocast(batch.text.device.type, enabled=False):  # T5 is small, and needs the range of float32
            states = self.text_encoder(input_ids=batch.text, attention_mask=mask.long()).last_hidden_state
            states = self.enc_to_dec_proj(states) if self.spec.text_projection else states
        return states * (mask & batch.text_kept[:, None])[..., None]

    def _chroma_table(self) -> Tensor:
        """Return the pitch classes' embeddings [chroma_bins, hidden]; without a projection they are one-hot vectors."""
        if not self.spec.chroma_projection:
            return torch.eye(self.spec.hidden, device=self.sinusoids.device)
        return self.audio_enc_to_dec_proj.weight.T + self.audio_enc_to_dec_proj.bias

    def _positions(self, length: int) -> Tensor:
        if length > len(self.sinusoids):  # computed in the same way beyond the table, as in the engine
            self.sinusoids = sinusoidal_positions(length, self.spec.hidden).to(self.sinusoids.device)
        return self.sinusoids[:length]

    def _initialize(self) -> None:
        """Initialize as GPT-2: small weights, and smaller ones with depth where they add to the residual stream."""
        for name, weight in self.named_parameters():
            if name.startswith("text_encoder."):
                continue
            if "embed_tokens" in name:
                nn.init.normal_(weight, 0.0, _EMBEDDING_DEVIATION)
            elif name.startswith("audio_enc_to_dec_proj"):
                nn.init.normal_(weight, 0.0, 2 * _EMBEDDING_DEVIATION)
            elif name.endswith(("out_proj.weight", "fc2.weight")):
                nn.init.normal_(weight, 0.0, _INITIAL_DEVIATION / (2 * self.spec.layers) ** 0.5)
            elif weight.ndim == 2 and name.startswith("decoder."):
                nn.init.normal_(weight, 0.0, _INITIAL_DEVIATION)


def _close_gap(sequences: Tensor, code_starts: Tensor, code_offset: int) -> Tensor:
    """Move the codes in sequences [B, N, hidden] from `code_offset` to `code_starts` [B], directly after the text.

    The positions that are left over at the end repeat the last one; they are not used.
    """
    batch_size, length = sequences.shape[:2]
    positions = torch.arange(length, device=sequences.device).expand(batch_size, -1)
    source = torch.where(
        positions < code_starts[:, None],
        positions,
        (positions + code_offset - code_starts[:, None]).clamp(max=length - 1),
    )
    return sequences.flatten(0, 1)[source + torch.arange(batch_size, device=sequences.device)[:, None] * length]
