"""CLAP: the joint text embedding, quantised as audiocraft's conditioner does."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer, ClapConfig, ClapModel

from musicgen.model.checkpoint.tensors import Tensors
from musicgen.model.text.clap import MAX_TOKENS, ClapEmbedder, quantize_residually
from tests.fixtures.checkpoints import write_tokenizer

DIM = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ClapModel with random weights, a tokenizer, and a quantizer of three codebooks."""
    folder = tmp_path_factory.mktemp("clap")
    text = {
        "vocab_size": 400,
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
    }
    text |= {"max_position_embeddings": 100, "projection_dim": DIM, "pad_token_id": 0}
    audio = {
        "patch_embeds_hidden_size": 8,
        "depths": [1, 1],
        "num_attention_heads": [2, 2],
        "hidden_size": 16,
        "num_hidden_layers": 2,
    }
    config = ClapConfig(text_config=text, audio_config=audio | {"projection_dim": DIM}, projection_dim=DIM)
    torch.manual_seed(6)
    model = ClapModel(config).eval()
    with torch.no_grad():
        for parameter in model.text_model.parameters():
            parameter.normal_(0, 0.3)
    weights = {f"text_encoder.{name}": value.clone() for name, value in model.state_dict().items()}
    weights |= {f"text_quantizer.layers.{i}.codebook.embed": torch.randn(32, DIM) / 4**i for i in range(3)}
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"text_encoder": config.to_dict()}))
    write_tokenizer(folder, 400)
    return folder


def test_embedding_equals_transformers_before_quantisation(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())["text_encoder"]
    embedder = ClapEmbedder.load(folder, config, Tensors.open(folder), torch.device("cpu"))
    codebooks, embedder.codebooks = embedder.codebooks, []
    model = ClapModel(ClapConfig(**config)).eval()
    tensors = Tensors.open(folder)
    model.load_state_dict(tensors.read("text_encoder."))
    tokens = AutoTokenizer.from_pretrained(folder)(
        "funky bass", return_tensors="pt", padding="max_length", max_length=MAX_TOKENS, truncation=True
    )
    with torch.inference_mode():
        expected = model.get_text_features(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        ).pooler_output
        found = embedder("funky bass")
        assert found.shape == (1, DIM)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
        assert not torch.allclose(embedder("sad violin"), found)
        embedder.codebooks = codebooks
        assert len(codebooks) == 3
        assert torch.equal(embedder("funky bass"), quantize_residually(found, codebooks))


def test_quantisation_sums_the_nearest_entries() -> None:
    coarse = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    fine = torch.tensor([[0.1, 0.1], [-0.1, 0.2]])
    assert torch.equal(quantize_residually(torch.tensor([[0.9, 0.15]]), [coarse, fine]), coarse[:1] + fine[1:])
    embedding = torch.tensor([[0.3, 0.4]])
    assert torch.equal(quantize_residually(embedding, []), embedding)
