"""What an engine has resident at most, against its plan. A program: other tests' memory would drown it.

`python -m tests.musicgen.engine.measure_resident_memory FOLDER` prints a JSON line for each kind of checkpoint and each
path.
"""

import ctypes
import gc
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch

from musicgen.conditioning.conditions import Branch, Conditions
from musicgen.engine import memory
from musicgen.model import load_model
from musicgen.model.decoder import decoder as decoder_module
from musicgen.model.decoder.cpu_ops import load_library
from musicgen.model.text.tokenizer import TokenCount
from musicgen.request import Request
from tests.fixtures.engines import make_engine
from tests.fixtures.random_checkpoint import Sizes, write_checkpoint
from tests.musicgen.engine.conftest import SilentCodec, run

SLOTS, POSITIONS = 12, 235  # of a melody's prefix


@dataclass
class Long:
    """The first request goes on from a long context, the others are short; prefixes as a kind of model has them."""

    model: Any
    sound_positions: int

    def expect(self, request: Request) -> None:
        pass

    def close(self) -> None:
        pass

    def prepare(self, requests: list[Request]) -> list[Any]:
        return [self._prepare(request) for request in requests]

    def _prepare(self, request: Request) -> Any:
        spec, text = self.model.spec, self.model.text.encode(request.prompt).states
        sound = torch.zeros(self.sound_positions if request.prompt == "long" else 1, spec.hidden)
        prefix = None if spec.kind == "text" else torch.cat([sound, text])
        rest = [Branch(None, prefix)] * (2 if spec.kind == "style" else 1)
        conditions = Conditions((Branch(text if prefix is None else None, prefix), *rest), 3.0)
        known = 250 if self.model.decoder.ops.static_shapes else 1480  # it is slow there, and changes little
        forced = torch.zeros(spec.codebooks, known, dtype=torch.int16) if request.prompt == "long" else None
        return SimpleNamespace(
            forced=forced, window=lambda start, frames: conditions, prompt_tokens=TokenCount(len(text))
        )


def resident(name: str) -> int:
    """A field of this process's status, in bytes."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields[name].split()[0]) * 1024


def measure(model: Any) -> dict[str, int]:
    """Bytes planned, and taken at most."""
    conditioner = Long(model, 0 if model.spec.kind == "text" else POSITIONS)
    long_s = 6 if model.decoder.ops.static_shapes else 30
    wanted = [
        Request(prompt="long", duration_s=long_s, seed=0),
        *(Request(prompt=f"{i}", duration_s=0.1, seed=0) for i in range(SLOTS)),
    ]
    run(
        make_engine(model, slots=1, conditioner=conditioner, max_frames=10), wanted[1:2]
    )  # what a first run loads and keeps
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is that of now
    engine = make_engine(model, slots=SLOTS, conditioner=conditioner)
    run(engine, wanted)
    taken = resident("VmHWM") - before
    assert engine._stepper.cache.capacity <= model.decoder.ops.round_capacity(engine._capacity), "it had to grow"
    planned = memory.engine_bytes(model.decoder, SLOTS, engine._width, engine._capacity)
    engine.close()
    return {"planned": planned, "taken": taken}


def main() -> None:
    torch.set_num_threads(1)
    for kind in ("text", "melody", "style"):
        sizes = Sizes(kind="text" if kind == "text" else "melody", hidden=192, layers=2, heads=3, ffn=768)
        folder = write_checkpoint(Path(sys.argv[1]) / kind, sizes, seed=1)
        for path in ("native", "eager"):
            with mock.patch.object(
                decoder_module, "load_library", (lambda: "a test") if path == "eager" else load_library
            ):
                model = load_model(folder, "cpu", "float32")
            if kind == "style":  # its decoder is a melody checkpoint's
                spec = replace(model.spec, kind="style", chroma_bins=0, chroma_length=0)
                model = replace(model, checkpoint=replace(model.checkpoint, spec=spec))
                model.decoder.spec = spec
            model = replace(model, codec=SilentCodec())
            print(json.dumps({"kind": kind, "path": path, **measure(model)}), flush=True)
            del model


if __name__ == "__main__":
    main()
