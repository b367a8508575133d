"""Originals score high; others' clips, noise and silence do not."""

from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from musicgen.clip import Clip
from musicgen.errors import JobError
from musicgen.evaluation import EvaluationReport, Reference, features, measure_model
from musicgen.evaluation import examples as material
from musicgen.evaluation.measures import judge_clips
from tests.musicgen.evaluation import band


def _judged(reference, clips):
    return judge_clips(reference, {"text": clips, "melody": clips, "codec": clips})


def _shortfalls(measures) -> set[str]:
    return {verdict.bound.measure for verdict in EvaluationReport("m", measures).short} - {
        "melody.n"
    }  # the band has 24 clips, not 100


def test_originals_meet_every_bound(reference: Reference) -> None:
    found = _judged(reference, reference.originals)
    assert _shortfalls(found) == set()
    assert found["frechet.text"] == pytest.approx(0, abs=1e-3)
    assert found["pitch.value"] > 5 * found["pitch.chance"]


def test_right_clips_for_the_wrong_requests_are_chance(reference: Reference) -> None:
    order = np.random.default_rng(5).permutation(len(reference.originals))
    found = _judged(reference, [reference.originals[i] for i in order])
    assert {"codec.value", "melody.ratio", "melody.p", "instrument.p", "tempo.p", "mode.p"} <= _shortfalls(found)
    assert found["melody.value"] == pytest.approx(found["melody.chance"], abs=0.1)
    assert found["frechet.text"] == pytest.approx(0, abs=1e-3)  # the set of sounds is the same


@pytest.mark.parametrize("kind", ["noise", "silence"])
def test_noise_and_silence_score_low(reference: Reference, kind: str) -> None:
    sound = (0.1 if kind == "noise" else 0.0) * np.random.default_rng(2).standard_normal(round(5 * band.RATE))
    found = _judged(
        reference, [features.extract_features((sound.astype(np.float32), band.RATE))] * len(reference.examples)
    )
    expected = {
        "codec.value",
        "melody.ratio",
        "melody.p",
        "instrument.value",
        "instrument.p",
        "tempo.p",
        "mode.value",
        "mode.p",
    }
    assert expected <= _shortfalls(found)
    assert ("codec.silent" in _shortfalls(found)) == (kind == "silence")
    assert found["frechet.text"] > 10 * found["frechet.floor"]


def test_clipping_is_measured(reference: Reference) -> None:
    loud = features.extract_features((1.5 * np.sin(np.arange(80_000) / 10), band.RATE))
    found = _judged(reference, [loud, *reference.originals[1:]])
    assert "codec.clipped" in _shortfalls(found)
    assert found["clipped.text"] == pytest.approx(1 / 24)


class _Playback:
    """A model that knows the originals by their requests."""

    sample_rate = band.RATE

    def __init__(self, reference: Reference, melodies: bool):
        self.spec = SimpleNamespace(supports=lambda control: melodies and control == "melody")
        self._examples = reference.examples
        self.asked: list = []

    def generate(self, requests, salt=0):
        self.asked += requests
        examples = [
            next(e for e in self._examples if e.prompt == r.prompt and r.melody in (None, str(e.melody)))
            for r in requests
        ]
        return [
            Clip(r, np.zeros((4, 1), np.int16), self._read(e), band.RATE)
            for r, e in zip(requests, examples, strict=True)
        ]

    def encode(self, audio, sample_rate=None):
        return audio

    def decode(self, codes):
        return 0.5 * codes

    def _read(self, example):
        return soundfile.read(example.audio, dtype="float32")[0][None]


@pytest.mark.parametrize("melodies", [True, False])
def test_a_model_is_asked_for_every_example_in_one_call(reference: Reference, melodies: bool) -> None:
    few = Reference(
        reference.examples[:6],
        reference.originals[:6],
        reference.melodies[:6],
        reference.classifier,
        reference.train_embeddings,
        reference.seconds,
        1,
    )
    model = _Playback(few, melodies)
    kept: list = []
    found = measure_model(
        model, few, settings={"top_k": 50}, on_clip=lambda kind, number, clip: kept.append((kind, number))
    )
    assert [r.prompt for r in model.asked[:6]] == [e.prompt for e in few.examples]
    assert {r.top_k for r in model.asked} == {50}
    assert kept == [(kind, i) for kind in ["text", "melody"][: 1 + melodies] for i in range(6)]
    assert ("melody.value" in found) == melodies
    assert found["instrument.value"] == found["instrument.original"] == 1
    assert found["codec.value"] > 0.99  # half as loud, and the same notes
    assert "loudness.text" in found


def test_examples_are_drawn_evenly_from_one_split(corpus) -> None:
    known = material.read_examples(corpus)
    drawn = material.draw_examples(known, "test", 12, seed=1)
    assert {e.split for e in drawn} == {"test"}
    assert sorted({(e.instrument, e.mode): 0 for e in drawn}) == sorted((e.instrument, e.mode) for e in drawn[:6])
    assert (
        material.draw_examples(known, "test", 12, seed=1) == drawn != material.draw_examples(known, "test", 12, seed=2)
    )
    with pytest.raises(JobError, match="'valid'"):
        material.draw_examples(known, "valid", 12, seed=1)


def test_a_folder_without_a_corpus_is_an_error(tmp_path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pytest.raises(JobError, match=r"holds no captions\.parquet"):
        material.read_examples(tmp_path)
    pq.write_table(pa.table({"audio": ["a.flac"], "prompt": ["x"]}), tmp_path / "captions.parquet")
    with pytest.raises(JobError, match="lacks melody, split, instrument"):
        material.read_examples(tmp_path)
