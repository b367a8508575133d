"""The network that is trained is the model that is run: the same logits as our engine and transformers, from the same
files.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from musicgen import MusicGen, Request
from musicgen.model import load_model, resolve_checkpoint
from musicgen.model.checkpoint.tensors import Tensors
from musicgen.model.text.tokenizer import load_tokenizer
from musicgen.training.batch import Dropout, TrainingClip, assemble_batch
from musicgen.training.export import export_checkpoint
from musicgen.training.network import Network
from tests.fixtures.engines import make_engine
from tests.fixtures.random_checkpoint import Sizes, write_checkpoint
from tests.musicgen.engine.conftest import run

FILLED = 9  # positions of a prompt
PROMPTS = ["slow piano", "fast heavy drums and bass with a loud guitar in the city", ""]


@pytest.fixture(scope="module", params=["melody", "filled", "text"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Network, Path]:
    """A network after a few steps on noise, and its export."""
    folder = tmp_path_factory.mktemp("trained")
    kind = "text" if request.param == "text" else "melody"
    path = write_checkpoint(folder / "start", Sizes(kind=kind, layers=3), seed=5) / "config.json"
    if request.param == "filled":
        path.write_text(json.dumps(json.loads(path.read_text()) | {"text_length": FILLED}))
    start = resolve_checkpoint(path.parent)
    network = Network(start.spec, _text_config(start.folder))
    network.load(Tensors.open(start.folder))
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    clips = _clips(network, start.folder, frames=30)
    for step in range(5):
        network(assemble_batch(clips, start.spec, "delay", 20, np.random.default_rng(step), Dropout()))[0].backward()
        optimizer.step()
        optimizer.zero_grad()
    export_checkpoint(network, start, folder / "export", "delay")
    return network.eval().requires_grad_(False), folder / "export"


def test_logits_equal_transformers(trained: tuple[Network, Path]) -> None:
    network, folder = trained
    melody = network.spec.kind == "melody"
    model = _reference(folder, melody)
    for clip in _clips(network, folder, frames=25):
        batch = assemble_batch([clip], network.spec, "delay", 25)
        codes = batch.inputs.reshape(-1, batch.inputs.shape[-1])
        text = clip.text if len(clip.text) else np.ones(1, np.int32)
        ids = torch.from_numpy(text.astype(np.int64))[None]
        mask = torch.full_like(ids, int(len(clip.text) > 0))  # no prompt: masked away, as its processor does
        if network.spec.text_length:  # padding="max_length"
            ids, mask = (torch.nn.functional.pad(x, (0, max(0, FILLED - x.shape[1]))) for x in (ids, mask))
        with torch.inference_mode():
            if melody:
                chroma = torch.nn.functional.one_hot(batch.pitch_classes, 12).float()
                theirs = model(
                    input_ids=ids, attention_mask=mask, input_features=chroma, decoder_input_ids=codes
                ).logits
            else:
                theirs = model(input_ids=ids, attention_mask=mask, decoder_input_ids=codes).logits
            ours = network.logits(batch)[0].transpose(0, 1)  # [codebooks, steps, size]
        assert torch.allclose(ours, theirs[:, -ours.shape[1] :], atol=1e-4), (
            (ours - theirs[:, -ours.shape[1] :]).abs().max()
        )


@pytest.mark.parametrize("pattern", ["delay", "parallel", "coarse_first", "flattening", "partial_delay"])
def test_greedy_generation_is_the_networks_argmax(
    trained: tuple[Network, Path], pattern: str, tmp_path: Path, melody_file: Path
) -> None:
    """The network predicts at once what the engine generates step by step: conditions, guidance, pattern."""
    network, folder = trained
    start = resolve_checkpoint(folder)
    export_checkpoint(network, start, tmp_path / "export", pattern)
    model = load_model(tmp_path / "export", "cpu", "float32")
    engine = make_engine(model, slots=2)
    melodies = [None, str(melody_file)] if start.spec.kind == "melody" else [None]
    requests = [
        Request(prompt=prompt, melody=melody, duration_s=0.5, guidance_scale=scale, temperature=0.0, seed=0)
        for prompt, melody, scale in zip(PROMPTS, [*melodies, None, None], [1.0, 3.0, 3.0], strict=False)
    ]
    outcomes = run(engine, requests)
    engine.close()
    tokenizer = load_tokenizer(folder, network.text_encoder.config)
    for request in requests:
        codes = outcomes[request].codes  # type: ignore[union-attr]
        text = np.asarray(tokenizer(request.prompt)["input_ids"] if request.prompt else [], np.int32)
        bins = np.zeros(0, np.int8) if request.melody is None else _bins(model, request)
        batch = assemble_batch([TrainingClip(codes, bins, text)], network.spec, pattern, codes.shape[1])
        with torch.inference_mode():
            logits = network.logits(batch)[0]  # [steps, codebooks, size]
            if request.guidance_scale != 1 and (len(text) or len(bins)):
                null = network.logits(
                    replace(batch, text_kept=torch.tensor([False]), pitch_classes=torch.zeros_like(batch.pitch_classes))
                )[0]
                logits = null + request.guidance_scale * (logits - null)
        real = batch.targets[0] >= 0  # [codebooks, steps]
        assert torch.equal(logits.argmax(-1).T[real], batch.targets[0][real]), request


def test_dropped_conditions_are_those_of_guidance(trained: tuple[Network, Path]) -> None:
    """With everything dropped, the network hears exactly what the conditioner's null branch is: zeros, and pitch class
    0.
    """
    network, folder = trained
    clips = _clips(network, folder, frames=20)[:2]
    dropped = assemble_batch(
        clips, network.spec, "delay", 20, np.random.default_rng(0), Dropout(all=1, text=0, melody=0, past=0)
    )
    kept = assemble_batch(clips, network.spec, "delay", 20)
    null = replace(kept, text_kept=torch.zeros(2, dtype=torch.bool), pitch_classes=torch.zeros_like(kept.pitch_classes))
    with torch.inference_mode():
        assert torch.equal(network.logits(dropped), network.logits(null))
        assert not torch.allclose(network.logits(dropped), network.logits(kept), atol=1e-3)
        short = network.logits(assemble_batch([_without(clips[0])], network.spec, "delay", 20))
        alone = assemble_batch([clips[0]], network.spec, "delay", 20)
        one = replace(
            alone,
            text_kept=torch.tensor([False]),
            text_lengths=torch.tensor([max(1, network.spec.text_length)]),
            pitch_classes=torch.zeros_like(alone.pitch_classes),
        )
        assert torch.allclose(
            short, network.logits(one), atol=1e-5
        )  # a row without a prompt has one position of zeros (or text_length)


def test_a_row_does_not_depend_on_other_rows(trained: tuple[Network, Path]) -> None:
    network, folder = trained
    clips = _clips(network, folder, frames=20)
    together = assemble_batch(clips, network.spec, "delay", 20)
    with torch.inference_mode():
        logits = network.logits(together)
        for row, clip in enumerate(clips):
            alone = network.logits(assemble_batch([clip], network.spec, "delay", 20))[0]
            assert torch.allclose(logits[row], alone, atol=1e-4)


def test_the_export_generates(trained: tuple[Network, Path], melody_file: Path) -> None:
    network, folder = trained
    with MusicGen.from_pretrained(str(folder)) as model:
        melody = str(melody_file) if network.spec.kind == "melody" else None
        clip = model.generate([Request(prompt="slow piano", melody=melody, duration_s=0.4)])[0]
    assert clip.audio.shape == (1, 12_800)
    assert np.isfinite(clip.audio).all()


def _reference(folder: Path, melody: bool) -> Any:
    from transformers import MusicgenForConditionalGeneration, MusicgenMelodyForConditionalGeneration

    kind = MusicgenMelodyForConditionalGeneration if melody else MusicgenForConditionalGeneration
    return kind.from_pretrained(folder, attn_implementation="eager").eval()


def _text_config(folder: Path) -> dict[str, Any]:
    import json

    return json.loads((folder / "config.json").read_text())["text_encoder"]


def _clips(network: Network, folder: Path, frames: int) -> list[TrainingClip]:
    draw = np.random.default_rng(0)
    tokenizer = load_tokenizer(folder, network.text_encoder.config)
    sizes = network.spec.codebooks, frames
    return [
        TrainingClip(
            draw.integers(0, network.spec.codebook_size, sizes).astype(np.int16),
            draw.integers(0, 12, 40).astype(np.int8),
            np.asarray(tokenizer(prompt)["input_ids"] if prompt else [], np.int32),
        )
        for prompt in PROMPTS
    ]


def _without(clip: TrainingClip) -> TrainingClip:
    return TrainingClip(clip.codes, clip.pitch_classes[:0], clip.text[:0])


def _bins(model: Any, request: Request) -> np.ndarray:
    from musicgen.conditioning.melody import MelodyAnalyzer

    return MelodyAnalyzer(model.spec.chroma_length, model.spec.chroma_bins).pitch_classes(request)[0]
