"""audiocraft's own checkpoints become the published format, with the same bytes and the same codes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from musicgen.errors import ModelError
from musicgen.model import load_model, resolve_checkpoint
from musicgen.model.convert.audiocraft_format import AudiocraftCheckpoint
from musicgen.model.convert.conversion import convert_checkpoint
from musicgen.request import Request
from tests.fixtures import audiocraft_checkpoint as audiocraft
from tests.fixtures.audiocraft_checkpoint import same_bytes
from tests.musicgen.engine.conftest import SilentCodec, codes, load, one_thread, run
from tests.musicgen.engine.test_parity import PROMPTS, compare

__all__ = ["load", "one_thread"]

PROMPT = "slow piano and drums"
DELAYS = [0, 1, 2, 3]


def greedy(folder: Path, request: Request) -> np.ndarray:
    """Our engine's codes for one request, in float32."""
    from tests.fixtures.engines import make_engine

    engine = make_engine(replace(load_model(folder, "cpu", "float32"), codec=SilentCodec()), slots=1)
    resolved = request.resolve(0, 50)
    outcome = run(engine, [resolved])[resolved]
    engine.close()
    return codes(outcome)


@pytest.fixture(scope="module")
def companions(text_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    text, codec = audiocraft.split_companions(text_checkpoint, tmp_path_factory.mktemp("companions"))
    return {"text_encoder": str(text), "codec": str(codec)}


@torch.inference_mode()
def text_states(model: audiocraft.LanguageModel, folder: str) -> torch.Tensor:
    """The prompt's states in the decoder's width, by transformers' T5."""
    from transformers import AutoTokenizer, T5EncoderModel

    ids = AutoTokenizer.from_pretrained(folder)([PROMPT], return_tensors="pt")
    return model.project("description", T5EncoderModel.from_pretrained(folder)(**ids).last_hidden_state[0])


@pytest.mark.parametrize("codebooks", [4, pytest.param(8, marks=pytest.mark.slow)])
def test_a_text_model_of_audiocraft(
    companions: dict[str, str], load: Callable[..., Any], tmp_path: Path, codebooks: int
) -> None:
    """Mono with the published codec, stereo with one of its own."""
    delays = DELAYS if codebooks == 4 else [0, 0, 1, 1, 2, 2, 3, 3]
    model, codec = audiocraft.small_model(codebooks), None
    if codebooks == 8:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            codec = audiocraft.Codec().eval()
    source = audiocraft.write_audiocraft(
        tmp_path / "source", model, audiocraft.small_settings(codebooks, delays=delays), codec
    )
    done = convert_checkpoint(str(source), str(tmp_path / "new"), companions=companions)
    assert done.format == "audiocraft"
    assert set(done.companions) == ({"text_encoder", "codec"} if codec is None else {"text_encoder"})
    spec = resolve_checkpoint(tmp_path / "new").spec
    assert (spec.kind, spec.codebooks, spec.channels, spec.max_frames) == ("text", codebooks, codebooks // 4, 1500)

    found = load_file(tmp_path / "new" / "model.safetensors")
    for prefix, folder in (("text_encoder.", companions["text_encoder"]), ("audio_encoder.", companions["codec"])):
        if codec is None or prefix == "text_encoder.":
            for name, tensor in load_file(Path(folder) / "model.safetensors").items():
                assert same_bytes(found[prefix + name], tensor), name
    state = {name: tensor.half() for name, tensor in model.state_dict().items()}
    for number, part in enumerate(("q_proj", "k_proj", "v_proj")):
        stacked = state["transformer.layers.1.cross_attention.in_proj_weight"]
        assert same_bytes(
            found[f"decoder.model.decoder.layers.1.encoder_attn.{part}.weight"], stacked[32 * number : 32 * number + 32]
        )
    assert same_bytes(found["decoder.model.decoder.embed_tokens.3.weight"], state["emb.3.weight"])
    assert same_bytes(
        found["enc_to_dec_proj.bias"], state["condition_provider.conditioners.description.output_proj.bias"]
    )

    text = text_states(model, companions["text_encoder"])
    expected = model.generate(40, delays, [(None, text), (None, torch.zeros_like(text))])
    ours = greedy(tmp_path / "new", Request(PROMPT, duration_s=0.8, temperature=0.0, guidance_scale=3.0))
    assert np.array_equal(ours, expected)
    assert len(np.unique(ours)) > 5
    compare(load(tmp_path / "new"), tmp_path / "new", PROMPTS[1:2], slots=1)
    if codec is not None:
        _compare_codecs(tmp_path / "new", codec, ours)


def _compare_codecs(folder: Path, codec: audiocraft.Codec, stereo: np.ndarray) -> None:
    ours = load_model(folder, "cpu", "float32").codec
    audio = ours.decode(stereo)
    for channel in range(2):
        assert np.abs(audio[channel] - codec.decode(stereo[channel::2])[0]).max() < 1e-5 * np.abs(audio).max()
    left_and_right = [codec.encode(audio[channel : channel + 1]) for channel in range(2)]
    assert np.mean(ours.encode(audio) == np.stack(left_and_right, 1).reshape(8, -1)) > 0.99  # but for near ties


def test_a_melody_model_of_audiocraft(companions: dict[str, str], tmp_path: Path) -> None:
    from musicgen.conditioning import chroma
    from tests.musicgen.conditioning.music import decode_bytes, tune, write

    model = audiocraft.small_model(sound=12, seed=2)
    window = {"condition_provider.conditioners.self_wav.chroma.spec.window": torch.hann_window(16)}
    source = audiocraft.write_audiocraft(
        tmp_path / "source", model, audiocraft.small_settings(sound=audiocraft.CHROMA), more=window
    )
    convert_checkpoint(str(source), str(tmp_path / "new"), companions=companions)
    spec = resolve_checkpoint(tmp_path / "new").spec
    assert (spec.kind, spec.chroma_bins, spec.chroma_length) == ("melody", 12, 235)
    melody = write(tmp_path / "tune.wav", tune(3.0))
    classes = chroma.strongest_pitch_classes(decode_bytes(melody.read_bytes())[0])
    with torch.inference_mode():
        heard = torch.eye(12)[torch.from_numpy(np.resize(classes, 235).astype(np.int64))]
        silence = torch.eye(12)[torch.zeros(235, dtype=torch.long)]
        text = text_states(model, companions["text_encoder"])
        given = torch.cat([model.project("self_wav", heard), text])
        null = torch.cat([model.project("self_wav", silence), torch.zeros_like(text)])
    expected = model.generate(20, DELAYS, [(given, None), (null, None)])
    request = Request(PROMPT, melody=str(melody), duration_s=0.4, temperature=0.0, guidance_scale=3.0)
    assert np.array_equal(greedy(tmp_path / "new", request), expected)


def test_a_style_model_of_audiocraft(tmp_path: Path) -> None:
    """A style checkpoint in our format, taken apart into audiocraft's names, comes back as it was."""
    from musicgen.conditioning.style import StyleSettings
    from tests.musicgen.conditioning.music import tune, write
    from tests.musicgen.conditioning.style_checkpoint import write_audiocraft_style, write_style_checkpoint

    folder = write_style_checkpoint(tmp_path / "style", seed=3, heads=8)  # as every small model of audiocraft
    source, features = write_audiocraft_style(folder, tmp_path)
    text, codec = audiocraft.split_companions(folder, tmp_path / "companions")
    named = {"text_encoder": str(text), "codec": str(codec), "features": str(features)}
    convert_checkpoint(str(source), str(tmp_path / "new"), companions=named)
    found, expected = (load_file(path / "model.safetensors") for path in (tmp_path / "new", folder))
    unused = {"style.features.masked_spec_embed"}
    assert found.keys() == expected.keys() - unused
    assert all(same_bytes(found[name], expected[name]) for name in found)
    spec, original = (resolve_checkpoint(path).spec for path in (tmp_path / "new", folder))
    assert replace(spec, conditioner={}) == replace(original, conditioner={})
    ours, theirs = (StyleSettings.model_validate(dict(each.conditioner)) for each in (spec, original))
    assert ours.features == theirs.features | {"mask_feature_prob": 0.0}
    assert ours == theirs.model_copy(update={"features": ours.features})
    excerpt = write(tmp_path / "tune.wav", tune(5.0))
    request = Request(PROMPT, melody=str(excerpt), duration_s=0.4, temperature=0.0)
    found = greedy(tmp_path / "new", request)
    assert np.array_equal(found, greedy(folder, request))
    assert not np.array_equal(found, greedy(folder, replace(request, melody=None)))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("norm_first: true", "norm_first: false", "transformer_lm.norm_first is False; only True"),
        ("positional_embedding: sin", "positional_embedding: rope", "positional_embedding is 'rope'"),
        ("modeling: delay", "modeling: musiclm", "the codebook pattern 'musiclm' cannot be converted"),
        ("delays: [0, 1, 2, 3]", "delays: [0, 2, 4, 6]", r"the delays \[0, 2, 4, 6\] cannot be converted"),
        ("model: t5", "model: lut", "conditioners.description.model is 'lut'"),
        ("cross: [description]", "cross: []", "a text model that fuses its conditions as"),
        ("lm_model: transformer_lm", "lm_model: transformer_lm_magnet", "lm_model is 'transformer_lm_magnet'"),
    ],
)
def test_what_cannot_be_converted_is_named(
    companions: dict[str, str], tmp_path: Path, old: str, new: str, message: str
) -> None:
    text = audiocraft.small_settings()
    assert old in text
    source = audiocraft.write_audiocraft(tmp_path / "source", audiocraft.small_model(), text.replace(old, new))
    folders = {part: Path(folder) for part, folder in companions.items()}

    def convert() -> None:  # in this process, since the test wrote the pickles
        checkpoint = AudiocraftCheckpoint(source)
        assert set(checkpoint.needs()) == set(folders)
        checkpoint.convert(folders)

    with pytest.raises(ModelError, match=message):
        convert()


def test_a_model_that_is_not_known_has_to_be_given(companions: dict[str, str], tmp_path: Path) -> None:
    text = audiocraft.small_settings().replace("name: t5-base", "name: my-t5")
    source = audiocraft.write_audiocraft(tmp_path / "source", audiocraft.small_model(), text)
    with pytest.raises(ModelError, match=r"'my-t5' as its text encoder, which is not known here: .* --text-encoder"):
        convert_checkpoint(str(source), str(tmp_path / "new"), companions={"codec": companions["codec"]})
    assert not list(tmp_path.glob("*new*"))
