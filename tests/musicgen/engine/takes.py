"""Make the same clips again and again in one process: `python -m tests.musicgen.engine.takes THREADS TAKES DTYPE FOLDER
WINDOW_S`.

The embedded model makes a clip with a melody, one with a continuation and one of three windows, each with many known
positions, in company that changes from take to take. Prints as JSON which codes each clip had (sha256) and how often a
thread other than the caller worked on a loop of the kernels. With MUSICGEN_COMPILE=0 torch's operations make them.
"""

import hashlib
import json
import sys
from ctypes import CDLL
from dataclasses import replace
from pathlib import Path
from random import Random

from musicgen.api import add_content_hashes
from musicgen.clip import Clip
from musicgen.model import load_model
from musicgen.model.decoder.cpu_ops import load_library
from musicgen.request import Request
from tests.fixtures.engines import make_engine


def clips(folder: Path, greedy: bool, window_s: float) -> dict[str, Request]:
    """The requests, by what is special about them."""
    melody = str(folder / "melody.wav")
    how = {"temperature": 0.0} if greedy else {}
    return {
        "melody": Request(prompt="sad piano, 80 bpm, in A minor", melody=melody, duration_s=1.0, **how),
        "continuation": Request(prompt="happy flute, 120 bpm", continuation=melody, duration_s=3.6, **how),
        "three windows": Request(prompt="calm guitar, 90 bpm", duration_s=window_s + 0.8, stride_s=0.4, **how),
        "text": Request(prompt="sad piano, 80 bpm, in A minor", duration_s=1.0, **how),
    }


def count_helped_loops(library: CDLL | str) -> int:
    """How often a thread other than the caller has worked on a loop of the kernels; 0 without kernels."""
    return 0 if isinstance(library, str) else int(library.helped_loops())


def main(threads: int, takes: int, dtype: str, folder: Path, window_s: float) -> None:
    """Print the takes. A window shorter than the model's own makes a clip of three windows a short one."""
    model = load_model("embedded", "cpu", dtype)
    spec = replace(model.spec, max_frames=round(window_s * model.spec.frame_rate))
    model = replace(model, checkpoint=replace(model.checkpoint, spec=spec))
    requests = {
        name: add_content_hashes(request).resolve(0, model.spec.frame_rate)
        for name, request in clips(folder, dtype == "float32", window_s).items()
    }
    library = load_library()
    helped_before = count_helped_loops(library)  # in the check of the kernels when they are loaded, by chance
    company = [
        Request(prompt=f"tune {number}", duration_s=0.2 + 0.1 * number).resolve(0, model.spec.frame_rate)
        for number in range(5)
    ]
    found: dict[str, set[str]] = {name: set() for name in requests}
    for take in range(takes):
        engine = make_engine(model, slots=3, threads=threads)
        dice = Random(take)
        mix = [*requests.values(), *dice.sample(company, take % 4)]
        dice.shuffle(mix)
        for request in mix:
            engine.add(request)
        outcomes = {}
        while engine.busy:
            outcomes |= {outcome.request: outcome for outcome in engine.step()}
        engine.close()
        for name, request in requests.items():
            clip = outcomes[request]
            assert isinstance(clip, Clip), clip
            found[name].add(hashlib.sha256(clip.codes.tobytes()).hexdigest())
    helped = count_helped_loops(library) - helped_before
    print(json.dumps({"clips": {name: sorted(hashes) for name, hashes in found.items()}, "helped": helped}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4]), float(sys.argv[5]))
