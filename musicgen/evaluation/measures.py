"""A model's measures: what it was asked for, against what tools that did not train it hear."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from musicgen.clip import Clip
from musicgen.evaluation import features as heard
from musicgen.evaluation import frechet, pitch, tempo
from musicgen.evaluation import pitch_classes as chroma
from musicgen.evaluation.chance import PairedResult, compare_with_chance
from musicgen.evaluation.features import ClipFeatures
from musicgen.evaluation.reference import Reference
from musicgen.request import Request

Measures = dict[str, float]
"""Flat: "melody.value", "melody.chance", ...; docs/evaluation.md names them all."""

ClipCallback = Callable[[str, int, Clip], None]
"""(kind, number of the example, clip): what to do with a generated clip, such as writing it to a file."""


class EvaluatedModel(Protocol):
    """What is measured: `musicgen.MusicGen`, or anything that does the same."""

    @property
    def spec(self) -> Any: ...
    @property
    def sample_rate(self) -> int: ...
    def generate(self, requests: Sequence[Request], salt: int = 0) -> list[Clip]: ...
    def encode(self, audio: NDArray[Any], sample_rate: int | None = None) -> NDArray[np.int16]: ...
    def decode(self, codes: NDArray[Any]) -> NDArray[np.float32]: ...


def measure_model(
    model: EvaluatedModel,
    reference: Reference,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    codec: bool = True,
    on_message: Callable[[str], None] = lambda text: None,
    keep: ClipCallback = lambda kind, number, clip: None,
) -> Measures:
    """Ask the model for every example of the reference, once by its prompt and, if it takes melodies, once more with
    its melody.

    `settings` are fields of `Request` (temperature, top_k, guidance_scale ...) and `seed` is the salt of the clips'
    seeds. Without `codec` the round trip of the originals is left out. All clips are asked for in one call, so that
    slots stay full.
    """
    examples, seconds = reference.examples, reference.seconds
    kinds = ["text", *(["melody"] if model.spec.supports("melody") else [])]
    asked = [
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
    on_message(f"the model makes {len(asked)} clips of {seconds:g} s")
    clips = model.generate(asked, salt=seed)
    for number, clip in enumerate(clips):
        keep(kinds[number // len(examples)], number % len(examples), clip)
    on_message(f"the judges hear {len(clips)} clips")
    sounds: list[heard.Sound] = [(clip.audio, clip.sample_rate) for clip in clips]
    judged = heard.map_sounds(heard.extract_features, sounds, seconds, reference.processes)
    made = {kind: judged[i * len(examples) : (i + 1) * len(examples)] for i, kind in enumerate(kinds)}
    if codec:
        on_message(f"the codec takes {len(examples)} unseen originals to codes and back")
        made["codec"] = heard.map_sounds(
            heard.extract_features, [_round_trip(model, e.audio) for e in examples], seconds, reference.processes
        )
    return judge_clips(reference, made)


def judge_clips(reference: Reference, made: Mapping[str, Sequence[ClipFeatures]]) -> Measures:
    """Measures of clips that were heard, in the examples' order: `made["text"]`, and if there, `made["melody"]` and
    `made["codec"]`.
    """
    found: Measures = {}
    sets = {"original": reference.originals, **made}
    for name, score in (
        ("instrument", _judge_instrument),
        ("tempo", _judge_tempo),
        ("tempo_exact", _judge_exact_tempo),
        ("mode", _judge_mode),
    ):
        found |= _named_fields(name, score(reference, made["text"]))
        found |= {f"{name}.{kind}": score(reference, clips).value for kind, clips in sets.items() if kind != "text"}
    if "melody" in made:
        for name, score in (("melody", _judge_melody), ("pitch", _judge_pitch)):
            result = score(reference, made["melody"])
            found |= {**_named_fields(name, result), f"{name}.ratio": result.ratio}
            found |= {
                f"{name}.{kind}": score(reference, clips).value for kind, clips in sets.items() if kind != "melody"
            }
    if "codec" in made:
        kept = [
            chroma.class_agreement(a.melody.notes, b.melody.chroma)
            for a, b in zip(reference.originals, made["codec"], strict=True)
        ]
        found |= {"codec.value": float(np.nanmean(kept)), "codec.n": len(kept)}
    found["frechet.floor"] = frechet.frechet_distance(reference.train_embeddings, _embeddings(reference.originals))
    for kind, clips in made.items():
        found |= {
            f"{kind}.{name}" if kind == "codec" else f"{name}.{kind}": value
            for name, value in _measure_levels(clips).items()
        }
        found[f"frechet.{kind}"] = frechet.frechet_distance(_embeddings(clips), _embeddings(reference.originals))
    return found


def _named_fields(name: str, result: PairedResult) -> Measures:
    return {f"{name}.{field}": value for field, value in asdict(result).items()}


def _judge_instrument(reference: Reference, clips: Sequence[ClipFeatures]) -> PairedResult:
    names = reference.classifier.classify(np.stack([clip.timbre.instrument for clip in clips]))
    return _judge_labels(
        [example.instrument for example in reference.examples],
        [None if c.silent else n for c, n in zip(clips, names, strict=True)],
    )


def _judge_mode(reference: Reference, clips: Sequence[ClipFeatures]) -> PairedResult:
    return _judge_labels([example.mode for example in reference.examples], [clip.mode for clip in clips])


def _judge_labels(asked: Sequence[str], answers: Sequence[str | None]) -> PairedResult:
    return compare_with_chance(np.array([[float(answer == wish) for wish in asked] for answer in answers]))


def _judge_tempo(reference: Reference, clips: Sequence[ClipFeatures], octaves: bool = True) -> PairedResult:
    with_beat = [i for i, example in enumerate(reference.examples) if example.drums]
    wishes = [reference.examples[i].tempo_bpm for i in with_beat]
    return compare_with_chance(
        np.array(
            [[float(tempo.tempo_matches(wish, clips[i].tempo_bpm, octaves)) for wish in wishes] for i in with_beat]
        )
    )


def _judge_exact_tempo(reference: Reference, clips: Sequence[ClipFeatures]) -> PairedResult:
    return _judge_tempo(reference, clips, octaves=False)


def _judge_melody(reference: Reference, clips: Sequence[ClipFeatures]) -> PairedResult:
    return compare_with_chance(
        np.array(
            [
                [chroma.class_agreement(melody.notes, clip.melody.chroma) for melody in reference.melodies]
                for clip in clips
            ]
        )
    )


def _judge_pitch(reference: Reference, clips: Sequence[ClipFeatures]) -> PairedResult:
    return compare_with_chance(
        np.array(
            [
                [pitch.pitch_agreement(melody.pitch, clip.melody.pitch) for melody in reference.melodies]
                for clip in clips
            ]
        )
    )


def _measure_levels(clips: Sequence[ClipFeatures]) -> Measures:
    loudness = [clip.loudness_lufs for clip in clips if clip.loudness_lufs is not None]
    return {
        "clipped": sum(clip.peak > 1.0 for clip in clips) / len(clips),
        "silent": sum(clip.silent for clip in clips) / len(clips),
        "loudness": float(np.mean(loudness)) if loudness else float("nan"),
    }


def _embeddings(clips: Sequence[ClipFeatures]) -> NDArray[np.float32]:
    return np.concatenate([clip.timbre.embedding for clip in clips])


def _round_trip(model: EvaluatedModel, path: Path) -> heard.Sound:
    import soundfile

    audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return model.decode(model.encode(audio.T, rate)), model.sample_rate
