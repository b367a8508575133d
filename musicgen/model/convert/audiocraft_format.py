"""Converts an audiocraft checkpoint: state_dict.bin (the decoder) and compression_state_dict.bin (the codec).

The text encoder, a style model's feature encoder and mostly the codec too are only named in it; they are read from
folders of their own.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from musicgen.errors import ModelError
from musicgen.model.convert.audiocraft_codec import codec_config, convert_codec, published_codec
from musicgen.model.convert.audiocraft_decoder import CONDITIONERS, Kind, convert_decoder, decoder_config
from musicgen.model.convert.audiocraft_settings import AudiocraftSettings
from musicgen.model.convert.audiocraft_style import PREFIX as STYLE_PREFIX
from musicgen.model.convert.audiocraft_style import convert_features, convert_style, style_config
from musicgen.model.convert.converted import TOKENIZER_FILES, Converted, existing_files, read_config, whole
from musicgen.model.convert.pickles import Weights, as_tensors, open_pickle, open_weights
from musicgen.model.convert.safetensors_file import Part
from musicgen.value_types import JsonObject

DECODER_FILE, CODEC_FILE = "state_dict.bin", "compression_state_dict.bin"

_CHROMA_HOP, _CHROMA_RATE_HZ = 1 << 12, 32_000  # of musicgen/conditioning/chroma.py
_MODEL_TYPES: Mapping[Kind, str] = {"text": "musicgen", "melody": "musicgen_melody", "style": "musicgen_style"}
_FINE_TUNED_T5 = f"{CONDITIONERS}description.t5."
_T5_ENCODER = re.compile(r"(shared|encoder)\.")


class AudiocraftCheckpoint:
    """The two pickles of an audiocraft checkpoint, opened."""

    def __init__(self, folder: Path):
        """Open them. Raises `ModelError`."""
        pickled = open_pickle(folder / DECODER_FILE)
        self.settings = AudiocraftSettings.parse(pickled.get("xp.cfg"), DECODER_FILE)
        self.weights = as_tensors(pickled.get("best_state"), DECODER_FILE)
        self.codec = open_pickle(folder / CODEC_FILE)
        self.kind = _read_kind(self.settings)

    def needs(self) -> dict[str, str]:
        """Name the models that the checkpoint leaves out, as audiocraft does: text_encoder, codec, features."""
        self.settings.expect(conditioners__description__model="t5")
        needs = {"text_encoder": str(self.settings.get("conditioners.description.t5.name"))}
        if "best_state" not in self.codec:
            needs["codec"] = str(self.codec.get("pretrained"))
        if self.kind == "style":
            needs["features"] = str(self.settings.get("conditioners.self_wav.style.model_name"))
        return needs

    def convert(self, folders: Mapping[str, Path]) -> Converted:
        """Put the checkpoint together with the models that it needs, each in its folder. Raises `ModelError`."""
        codec_tensors, codec = self._convert_codec(folders)
        frame_rate = codec["sampling_rate"] / math.prod(codec["upsampling_ratios"])
        t5 = self._take(_FINE_TUNED_T5)
        style = self._take(STYLE_PREFIX) if self.kind == "style" else {}
        decoder = decoder_config(self.weights, self.settings, self.kind, frame_rate)
        text_tensors, text = _convert_text_encoder(t5, folders["text_encoder"])
        tensors = convert_decoder(self.weights, DECODER_FILE) | codec_tensors | text_tensors
        config: JsonObject = {
            "model_type": _MODEL_TYPES[self.kind],
            "audio_encoder": codec,
            "decoder": decoder,
            "text_encoder": text,
            "dtype": "float32",  # to compute in; the decoder's weights may be stored in float16
            "is_encoder_decoder": True,
        }
        if self.kind == "melody":
            config |= _melody_config(self.settings)
        if self.kind == "style":
            features, features_config = convert_features(folders["features"])
            tensors |= features | convert_style(style, DECODER_FILE)
            config["conditioner"] = style_config(style, self.settings, features_config)
        _check_projection(self.kind, text, decoder)
        documents = {
            "config.json": config,
            "generation_config.json": _generation_config(decoder, frame_rate),
            "preprocessor_config.json": _preprocessor_config(config),
        }
        return Converted(tensors, documents, existing_files(folders["text_encoder"], TOKENIZER_FILES))

    def _take(self, prefix: str) -> dict[str, Tensor]:
        """Take the tensors under a prefix out of the decoder's, and cut it off."""
        names = [name for name in self.weights if name.startswith(prefix)]
        return {name.removeprefix(prefix): self.weights.pop(name) for name in names}

    def _convert_codec(self, folders: Mapping[str, Path]) -> tuple[dict[str, list[Part]], JsonObject]:
        if "best_state" not in self.codec:
            return published_codec(folders["codec"])
        config = codec_config(AudiocraftSettings.parse(self.codec.get("xp.cfg"), CODEC_FILE))
        return convert_codec(as_tensors(self.codec["best_state"], CODEC_FILE), CODEC_FILE), config


def _read_kind(settings: AudiocraftSettings) -> Kind:
    """Tell the kind of model by its conditioners and how they are fused. Raises `ModelError`."""
    conditioners = {name for name in settings.section("conditioners") if name != "args"}
    sound = settings.get("conditioners.self_wav.model")
    kinds: dict[object, Kind] = {None: "text", "chroma_stem": "melody", "style": "style"}
    if conditioners not in ({"description"}, {"description", "self_wav"}) or sound not in kinds:
        named = ", ".join(sorted(f"{name} ({settings.get(f'conditioners.{name}.model')})" for name in conditioners))
        raise ModelError(f"{settings.where}: a model with the conditioners {named or 'none'} cannot be converted")
    kind = kinds[sound]
    settings.expect(
        fuser__sum=[],
        fuser__input_interpolate=[],
        fuser__cross_attention_pos_emb=False,
        conditioners__description__t5__normalize_text=False,
    )
    fused = {way: settings.get(f"fuser.{way}", []) for way in ("cross", "prepend")}
    wanted = (["description"], []) if kind == "text" else ([], ["description", "self_wav"])
    if (fused["cross"], sorted(fused["prepend"] if isinstance(fused["prepend"], list) else [])) != wanted:
        raise ModelError(f"{settings.where}: a {kind} model that fuses its conditions as {fused} cannot be converted")
    return kind


def _convert_text_encoder(t5: Weights, folder: Path) -> tuple[dict[str, list[Part]], JsonObject]:
    """Return the T5 encoder's tensors and config: the checkpoint's own, if it was fine-tuned, else the folder's."""
    config = read_config(folder)
    if config.get("model_type") != "t5":
        raise ModelError(f"{folder}: its model_type is {config.get('model_type')!r}; the text encoder must be a t5")
    weights = t5 or open_weights(folder)
    names = [name for name in weights if _T5_ENCODER.match(name)]
    if "shared.weight" in names:  # the same table
        names = [name for name in names if name != "encoder.embed_tokens.weight"]
    return {f"text_encoder.{name}": whole(weights, name) for name in names}, config


def _check_projection(kind: Kind, text: JsonObject, decoder: JsonObject) -> None:
    if kind != "style" and text.get("d_model") == decoder["hidden_size"]:
        raise ModelError(
            f"{DECODER_FILE}: text encoder and decoder are both {text['d_model']} wide; the published format has no "
            "projection between equal widths, and audiocraft has one"
        )


def _melody_config(settings: AudiocraftSettings) -> JsonObject:
    settings.expect(
        conditioners__self_wav__chroma_stem__sample_rate=_CHROMA_RATE_HZ,
        conditioners__self_wav__chroma_stem__radix2_exp=14,
        conditioners__self_wav__chroma_stem__argmax=True,
        conditioners__self_wav__chroma_stem__winhop=None,
        conditioners__self_wav__chroma_stem__winlen=None,
    )
    samples = int(settings.number("dataset.segment_duration") * _CHROMA_RATE_HZ)
    return {
        "num_chroma": settings.integer("conditioners.self_wav.chroma_stem.n_chroma"),
        "chroma_length": samples // _CHROMA_HOP + 1,
    }


def _generation_config(decoder: JsonObject, frame_rate: float) -> JsonObject:
    special = decoder["vocab_size"]
    return {
        "bos_token_id": special,
        "decoder_start_token_id": special,
        "do_sample": True,
        "guidance_scale": 3.0,
        "max_length": round(30 * frame_rate),
        "pad_token_id": special,
    }


def _preprocessor_config(config: JsonObject) -> JsonObject:
    """Return what transformers' processors read: the form of the sound that is given to the model."""
    sound: JsonObject = {
        "feature_extractor_type": "EncodecFeatureExtractor",
        "feature_size": config["decoder"]["audio_channels"],
        "padding_side": "left",
        "padding_value": 0.0,
        "processor_class": "MusicgenProcessor",
        "return_attention_mask": True,
        "sampling_rate": config["audio_encoder"]["sampling_rate"],
    }
    if config["model_type"] == "musicgen":
        return sound | {"chunk_length_s": None, "overlap": None}
    return sound | {
        "chunk_length": 30,
        "chroma_length": config.get("chroma_length", 235),
        "feature_extractor_type": "MusicgenMelodyFeatureExtractor",
        "hop_length": _CHROMA_HOP,
        "n_fft": 1 << 14,
        "n_samples": 30 * _CHROMA_RATE_HZ,
        "num_chroma": config.get("num_chroma", 12),
        "padding_side": "right",
        "processor_class": "MusicgenMelodyProcessor",
        "stem_indices": [3, 2],
    }
