"""The decoder's modules for training, with the tensor names of the published format."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from musicgen.model.spec import ModelSpec
from musicgen.training.attention import causal_attention


class Attention(nn.Module):
    """Multi-head attention without biases: causal self-attention, or cross-attention to text states."""

    def __init__(self, hidden: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(hidden, hidden, bias=False) for _ in range(4))

    def forward(self, states: Tensor) -> Tensor:
        """Attend from states [B, N, hidden] to themselves, causally."""
        weight = torch.cat([self.q_proj.weight, self.k_proj.weight, self.v_proj.weight])  # one product instead of three
        queries, keys, values = (
            F.linear(states, weight).view(*states.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        )  # [B, heads, N, head dim] each
        return self.out_proj(causal_attention(queries, keys, values).transpose(1, 2).flatten(2))

    def cross(self, states: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        """Attend from states [B, N, hidden] to text [B, S, hidden] where mask [B, S] is true."""
        queries, keys, values = (
            project(inputs).view(*inputs.shape[:2], self.heads, -1).transpose(1, 2)
            for project, inputs in ((self.q_proj, states), (self.k_proj, text), (self.v_proj, text))
        )
        return self.out_proj(
            F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask[:, None, None])
            .transpose(1, 2)
            .flatten(2)
        )


class DecoderLayer(nn.Module):
    """A pre-norm decoder layer: causal self-attention, in text models cross-attention, feed-forward."""

    def __init__(self, spec: ModelSpec):
        super().__init__()
        self.self_attn, self.self_attn_layer_norm = Attention(spec.hidden, spec.heads), nn.LayerNorm(spec.hidden)
        if spec.kind == "text":
            self.encoder_attn, self.encoder_attn_layer_norm = (
                Attention(spec.hidden, spec.heads),
                nn.LayerNorm(spec.hidden),
            )
        self.fc1, self.fc2 = nn.Linear(spec.hidden, spec.ffn, bias=False), nn.Linear(spec.ffn, spec.hidden, bias=False)
        self.final_layer_norm = nn.LayerNorm(spec.hidden)

    def forward(self, states: Tensor, text: Tensor | None, mask: Tensor | None) -> Tensor:
        """Apply the layer to states [B, N, hidden], with text [B, S, hidden] and its mask [B, S] in text models."""
        states = states + self.self_attn(self.self_attn_layer_norm(states))
        if text is not None and mask is not None:
            states = states + self.encoder_attn.cross(self.encoder_attn_layer_norm(states), text, mask)
        return states + self.fc2(F.gelu(self.fc1(self.final_layer_norm(states))))


class Transformer(nn.Module):
    """The embeddings of the codebooks, the layers and the final norm."""

    def __init__(self, spec: ModelSpec):
        super().__init__()
        self.embed_tokens = nn.ModuleList(
            nn.Embedding(spec.codebook_size + 1, spec.hidden) for _ in range(spec.codebooks)
        )
        self.layers = nn.ModuleList(DecoderLayer(spec) for _ in range(spec.layers))
        self.layer_norm = nn.LayerNorm(spec.hidden)


class DecoderModel(nn.Module):
    """The level `decoder.model` of the published tensor names."""

    def __init__(self, spec: ModelSpec):
        super().__init__()
        self.decoder = Transformer(spec)


class DecoderWithHeads(nn.Module):
    """The level `decoder` of the published tensor names: the transformer and a head for each codebook."""

    def __init__(self, spec: ModelSpec):
        super().__init__()
        self.model = DecoderModel(spec)
        self.lm_heads = nn.ModuleList(
            nn.Linear(spec.hidden, spec.codebook_size, bias=False) for _ in range(spec.codebooks)
        )
