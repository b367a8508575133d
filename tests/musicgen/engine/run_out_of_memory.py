"""An engine whose memory really runs out: the process may not have more addresses. A program, since there is no way
back.

`python -m tests.musicgen.engine.run_out_of_memory FOLDER` prints as JSON what came of the requests.
"""

import json
import resource
import sys
from dataclasses import replace
from pathlib import Path

import torch

from musicgen.clip import Clip
from musicgen.engine import memory
from musicgen.model import load_model
from musicgen.request import Request
from tests.fixtures.engines import make_engine
from tests.fixtures.random_checkpoint import Sizes, write_checkpoint
from tests.musicgen.engine.conftest import SilentCodec, run
from tests.musicgen.engine.measure_resident_memory import Long, resident

SLOTS = 8


def main() -> None:
    torch.set_num_threads(1)
    folder = write_checkpoint(Path(sys.argv[1]), Sizes(hidden=256, layers=6, heads=4, ffn=512), seed=1)
    model = replace(load_model(folder, "cpu", "float32"), codec=SilentCodec())
    engine = make_engine(model, slots=SLOTS, conditioner=Long(model, 0), max_frames=20)
    wanted = [Request(prompt=f"{i}", duration_s=0.1 + 0.02 * i, seed=0) for i in range(12)]
    run(engine, wanted[:1])  # threads and libraries are there: what is missing from now on is room for caches
    room = memory.slot_bytes(model.decoder, SLOTS, 2, 1504) * 0.7 + memory.step_bytes(model.decoder, SLOTS, 2, 1504)
    resource.setrlimit(resource.RLIMIT_AS, (resident("VmSize") + round(room),) * 2)
    wanted[5] = Request(prompt="long", duration_s=30, seed=0)
    outcomes = run(engine, wanted)
    clips = [outcome for outcome in outcomes.values() if isinstance(outcome, Clip)]
    engines = {clip.codes.shape[1]: json.loads(clip.engine) for clip in clips}
    print(
        json.dumps(
            {
                "asked": len(wanted),
                "frames": [clip.codes.shape[1] for clip in clips],
                "slots": engine.slots,
                "engines": engines,
            }
        )
    )


if __name__ == "__main__":
    main()
