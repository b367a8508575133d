"""A clip depends on its request alone: the same codes alone, in any mix, any slot, any order, on every path.

Codes are compared, with a codec that does nothing; the codec's own promise is tested beside it and in the last test
here.
"""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from musicgen.request import Request
from tests.fixtures.engines import make_engine
from tests.musicgen.engine.conftest import PATHS, SilentCodec, codes, run

WORDS = ["slow", "fast", "warm", "cold", "piano", "drums", "guitar", "city", "night", "dream", "loud", "soft"]
MIXES = {"native-float32": 150, "native-bfloat16": 150, "eager-float32": 10, "eager-bfloat16": 10}


def requests(count: int, seed: int) -> list[Request]:
    """Requests of every kind: durations, prompts (none too), guidance (none too), temperatures, top-k, top-p, seeds."""
    dice = random.Random(seed)
    return [
        Request(
            prompt=" ".join(dice.choices(WORDS, k=dice.choice([0, 1, 3, 9, 30]))),
            duration_s=dice.randint(1, 24) / 50,
            temperature=dice.choice([0.0, 0.7, 1.0, 1.4]),
            top_k=dice.choice([0, 5, 250]),
            top_p=dice.choice([0.0, 0.0, 0.9]),
            guidance_scale=dice.choice([1.0, 3.0, 3.0, 5.5]),
            sample=i,
        ).resolve(seed, 50)
        for i in range(count)
    ]


def silent(model: Any) -> Any:
    return replace(model, codec=SilentCodec())


@pytest.mark.parametrize("path", PATHS)
def test_codes_are_the_same_alone_and_in_any_mix(load: Any, text_checkpoint: Path, path: str) -> None:
    check_mixes(load, text_checkpoint, path, MIXES[path])


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("path", PATHS)
def test_codes_are_the_same_in_hundreds_of_mixes(load: Any, deeper_checkpoint: Path, path: str) -> None:
    check_mixes(load, deeper_checkpoint, path, 600 if path.startswith("native") else 200)


def check_mixes(load: Any, checkpoint: Path, path: str, mixes: int) -> None:
    """Requests alone, and then in random company and order through the same engine."""
    model = silent(load(checkpoint, path))
    pool = requests(24, seed=3)
    alone: dict[Request, np.ndarray] = {}
    slots = 5
    engine = make_engine(model, slots=slots)
    for request in pool:
        alone[request] = codes(run(engine, [request])[request])
    dice = random.Random(11)
    seen = 0
    for _ in range(mixes):
        mix = dice.sample(pool, dice.randint(1, 12))
        for request, outcome in run(engine, mix).items():
            assert np.array_equal(codes(outcome), alone[request]), (path, request)
            seen += 1
    engine.close()
    assert seen > mixes
    assert len({a.tobytes() for a in alone.values()}) > 15, (
        "the codes differ between requests: there was something to confuse"
    )


@pytest.mark.parametrize("path", ["native-float32", "native-bfloat16"])
def test_kernels_do_not_care_how_many_slots_and_threads_there_are(
    load: Any, deeper_checkpoint: Path, path: str
) -> None:
    model = silent(load(deeper_checkpoint, path))
    pool = requests(14, seed=5)
    found = []
    for slots, threads in [(1, 1), (3, 2), (7, 1), (14, 3)]:
        engine = make_engine(model, slots=slots, threads=threads)
        found.append({request: codes(outcome).tobytes() for request, outcome in run(engine, pool).items()})
        engine.close()
    assert all(f == found[0] for f in found)


@pytest.mark.parametrize("path", ["native-float32", "eager-float32"])
def test_a_clip_is_the_same_after_a_restart_in_the_middle(load: Any, text_checkpoint: Path, path: str) -> None:
    model = silent(load(text_checkpoint, path))
    pool = requests(6, seed=8)
    engine = make_engine(model, slots=2)
    for request in pool:
        engine.add(request)
    engine.step()
    engine.close()
    second, third = make_engine(model, slots=2), make_engine(model, slots=2)
    again, reverse = run(second, pool), run(third, pool[::-1])
    assert all(np.array_equal(codes(again[r]), codes(reverse[r])) for r in pool)


def test_seed_and_sample_change_the_codes(load: Any, text_checkpoint: Path) -> None:
    engine = make_engine(silent(load(text_checkpoint)), slots=3)
    one = Request(prompt="slow piano", duration_s=0.5, seed=1)
    outcomes = run(engine, [one, replace(one, seed=2), replace(one, sample=1).resolve(0, 50)])
    assert len({codes(o).tobytes() for o in outcomes.values()}) == 3


def test_sound_is_the_same_in_any_mix(load: Any, stereo_checkpoint: Path) -> None:
    model = load(stereo_checkpoint)
    pool = [replace(r, duration_s=d) for r, d in zip(requests(5, seed=2), (0.1, 0.3, 0.3, 0.7, 1.1), strict=True)]
    engine = make_engine(model, slots=3)
    alone = {r: run(engine, [r])[r] for r in pool}
    for mix in (pool, pool[::-1], [pool[3], pool[1]]):
        for request, outcome in run(engine, mix).items():
            assert outcome.audio.tobytes() == alone[request].audio.tobytes()  # type: ignore[union-attr]
            assert outcome.audio.shape == (2, round(request.duration_s * 32000))  # type: ignore[union-attr]
