"""Measures how well a model's clips match their requests, with tools that were not used in its training."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from musicgen.clip import Clip
from musicgen.evaluation.chance import PairedResult, compare_with_chance
from musicgen.evaluation.features import ClipFeatures, Sound, extract_features, map_sounds
from musicgen.evaluation.frechet import frechet_distance
from musicgen.evaluation.pitch import pitch_agreement
from musicgen.evaluation.pitch_classes import class_agreement
from musicgen.evaluation.reference import Reference
from musicgen.evaluation.tempo import tempo_matches
from musicgen.model.spec import ModelSpec
from musicgen.request import Request
from musicgen.value_types import TableRow

Measures = dict[str, float]
"""Values by name: "melody.value", "melody.chance", ...; docs/evaluation.md lists them all."""

ClipCallback = Callable[[str, int, Clip], None]
"""Called with (kind, index of the example, clip) for each generated clip, for example to write it to a file."""


class EvaluatedModel(Protocol):
    """The model that is measured: `musicgen.MusicGen`, or an object with the same methods."""

    @property
    def spec(self) -> ModelSpec:
        """Return the model's sizes and conditions."""

    @property
    def sample_rate(self) -> int:
        """Return the sample rate of clips in Hz."""

    def generate(self, requests: Sequence[Request], salt: int = 0) -> list[Clip]:
        """Generate a clip for each request, in order."""

    def encode(self, audio: NDArray[np.float32], sample_rate: int | None = None) -> NDArray[np.int16]:
        """Encode audio [channels, samples] as codes [codebooks, frames]."""

    def decode(self, codes: NDArray[np.int16]) -> NDArray[np.float32]:
        """Decode codes [codebooks, frames] to audio [channels, samples]."""


def measure_model(
    model: EvaluatedModel,
    reference: Reference,
    seed: int = 0,
    settings: TableRow | None = None,
    codec: bool = True,
    on_message: Callable[[str], None] = lambda text: None,
    on_clip: ClipCallback = lambda kind, number, clip: None,
) -> Measures:
    """Generate every example of the reference by its prompt and, if the model takes melodies, by prompt and melody.

    Returns the measures of the clips. `settings` are fields of `Request` (temperature, top_k, guidance_scale ...) and
    `seed` is the salt of the clips' seeds. Without `codec` the round trip of the originals through the codec is left
    out. All clips are requested in one call, so that the engine's slots stay in use.
    """
    examples, seconds = reference.examples, reference.seconds
    kinds = ["text", *(["melody"] if model.spec.supports("melody") else [])]
    requests = [
        Request(
            prompt=example.prompt,
            id=f"{kind}-{number}",
            duration_s=seconds,
            melody=str(example.melody) if kind == "melody" else None,
            **(settings or {}),
        )
        for kind in kinds
        for number, example in enumerate(examples)
    ]
    on_message(f"the model makes {len(requests)} clips of {seconds:g} s")
    clips = model.generate(requests, salt=seed)
    for number, clip in enumerate(clips):
        on_clip(kinds[number // len(examples)], number % len(examples), clip)
    on_message(f"analyzing {len(clips)} clips")
    sounds: list[Sound] = [(clip.audio, clip.sample_rate) for clip in clips]
    features_of_clips = map_sounds(extract_features, sounds, seconds, reference.processes)
    features_by_kind = {
        kind: features_of_clips[kind_index * len(examples) : (kind_index + 1) * len(examples)]
        for kind_index, kind in enumerate(kinds)
    }
    if codec:
        on_message(f"encoding and decoding {len(examples)} unseen originals with the codec")
        features_by_kind["codec"] = map_sounds(
            extract_features, [_round_trip(model, example.audio) for example in examples], seconds, reference.processes
        )
    return judge_clips(reference, features_by_kind)


def judge_clips(reference: Reference, features_by_kind: Mapping[str, Sequence[ClipFeatures]]) -> Measures:
    """Compute the measures from the features of clips, in the examples' order, by kind.

    The kinds are "text" and, if they were generated, "melody" and "codec".
    """
    measures: Measures = {}
    feature_sets = {"original": reference.originals, **features_by_kind}
    for name, score in (
        ("instrument", _judge_instrument),
        ("tempo", _judge_tempo),
        ("tempo_exact", _judge_exact_tempo),
        ("mode", _judge_mode),
    ):
        measures |= _name_fields(name, score(reference, features_by_kind["text"]))
        measures |= {
            f"{name}.{kind}": score(reference, clips).value for kind, clips in feature_sets.items() if kind != "text"
        }
    if "melody" in features_by_kind:
        for name, score in (("melody", _judge_melody), ("pitch", _judge_pitch)):
            result = score(reference, features_by_kind["melody"])
            measures |= {**_name_fields(name, result), f"{name}.ratio": result.ratio}
            measures |= {
                f"{name}.{kind}": score(reference, clips).value
                for kind, clips in feature_sets.items()
                if kind != "melody"
            }
    if "codec" in features_by_kind:
        agreements = [
            class_agreement(original.melody.notes, decoded.melody.chroma)
            for original, decoded in zip(reference.originals, features_by_kind["codec"], strict=True)
        ]
        measures |= {"codec.value": float(np.nanmean(agreements)), "codec.n": len(agreements)}
    measures["frechet.floor"] = frechet_distance(reference.train_embeddings, _join_embeddings(reference.originals))
    for kind, clips in features_by_kind.items():
        measures |= {
            f"{kind}.{name}" if kind == "codec" else f"{name}.{kind}": value
            for name, value in _measure_levels(clips).items()
        }
        measures[f"frechet.{kind}"] = frechet_distance(_join_embeddings(clips), _join_embeddings(reference.originals))
    return measures


def _name_fields(name: str, result: PairedResult) -> Measures:
    return {f"{name}.{field}": value for field, value in asdict(result).items()}


def _judge_instrument(reference: Reference, clips: Sequence[ClipFeatures]) -> PairedResult:
    names = reference.classifier.classify(np.stack([clip.timbre.instrument for clip in clips]))
    return _judge_labels(
        [example.instrument for example in reference.examples],
        [None if clip.silent else name for clip, name in zip(clips, names, strict=True)],
    )


def _judge_mode(reference: Reference, clips: Sequence[ClipFeatures]) -> PairedResult:
    return _judge_labels([example.mode for example in reference.examples], [clip.mode for clip in clips])


def _judge_labels(labels: Sequence[str], answers: Sequence[str | None]) -> PairedResult:
    return compare_with_chance(np.array([[float(answer == label) for label in labels] for answer in answers]))


def _judge_tempo(reference: Reference, clips: Sequence[ClipFeatures], octaves: bool = True) -> PairedResult:
    clips_with_drums = [index for index, example in enumerate(reference.examples) if example.drums]
    asked_tempi = [reference.examples[index].tempo_bpm for index in clips_with_drums]
    return compare_with_chance(
        np.array(
            [
                [float(tempo_matches(asked_bpm, clips[index].tempo_bpm, octaves)) for asked_bpm in asked_tempi]
                for index in clips_with_drums
            ]
        )
    )


def _judge_exact_tempo(reference: Reference, clips: Sequence[ClipFeatures]) -> PairedResult:
    return _judge_tempo(reference, clips, octaves=False)


def _judge_melody(reference: Reference, clips: Sequence[ClipFeatures]) -> PairedResult:
    return compare_with_chance(
        np.array(
            [[class_agreement(melody.notes, clip.melody.chroma) for melody in reference.melodies] for clip in clips]
        )
    )


def _judge_pitch(reference: Reference, clips: Sequence[ClipFeatures]) -> PairedResult:
    return compare_with_chance(
        np.array(
            [[pitch_agreement(melody.pitch, clip.melody.pitch) for melody in reference.melodies] for clip in clips]
        )
    )


def _measure_levels(clips: Sequence[ClipFeatures]) -> Measures:
    loudness = [clip.loudness_lufs for clip in clips if clip.loudness_lufs is not None]
    return {
        "clipped": sum(clip.peak > 1.0 for clip in clips) / len(clips),
        "silent": sum(clip.silent for clip in clips) / len(clips),
        "loudness": float(np.mean(loudness)) if loudness else float("nan"),
    }


def _join_embeddings(clips: Sequence[ClipFeatures]) -> NDArray[np.float32]:
    return np.concatenate([clip.timbre.embedding for clip in clips])


def _round_trip(model: EvaluatedModel, path: Path) -> Sound:
    import soundfile

    audio, sample_rate = soundfile.read(path, dtype="float32", always_2d=True)
    return model.decode(model.encode(audio.T, sample_rate)), model.sample_rate
