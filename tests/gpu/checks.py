"""What must hold on a card before its speed means anything. Each check returns None, or in a line what is wrong."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from musicgen.clip import Clip, Failed
from musicgen.conditioning.conditioner import RequestConditioner
from musicgen.engine import Engine
from musicgen.engine.self_check import check_reproducible
from musicgen.model import load_model
from musicgen.model.decoder.triton_ops import TritonOps, find_wrong_kernel
from musicgen.model.text.prompt_batches import PromptBatches
from musicgen.request import Request
from tests.fixtures.random_checkpoint import Sizes, write_checkpoint
from tests.fixtures.transformers_codes import load_reference, reference_codes

MELODY_FIXED_IN = (5, 23)  # earlier transformers ignore the melody (transformers#48679)


class Skipped(Exception):
    """A check that cannot be done here, and why."""


def check_kernel_values(device: torch.device, sizes: Sizes) -> str | None:
    """Compare the Triton kernels with torch, in each dtype of a cache."""
    dtypes = (torch.float32, torch.bfloat16, torch.float16) if device.type == "cuda" else (torch.float32,)
    try:
        import triton  # noqa: F401
    except ImportError:
        raise Skipped("no triton") from None
    for dtype in dtypes:
        wrong = find_wrong_kernel(TritonOps(device, dtype), 64)
        if wrong:
            return f"{wrong} in {dtype}"
    return None


def check_greedy_parity(device: torch.device, sizes: Sizes) -> str | None:
    """Compare greedy codes in float32 with those of transformers on the CPU, code for code."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = write_checkpoint(Path(scratch), sizes, seed=1)
        requests = [
            Request(prompt=prompt, duration_s=duration_s, guidance_scale=scale, temperature=0.0, seed=0)
            for prompt, duration_s, scale in (("slow piano", 0.4, 3.0), ("x", 0.62, 1.0), ("loud drums", 1.0, 2.5))
        ]
        outcomes = _generate(_load(folder, device, "float32"), requests, slots=2)
        oracle = load_reference(folder)
        for request in requests:
            expected = reference_codes(oracle, folder, request)
            if not np.array_equal(_codes(outcomes[request]), expected):
                return f"other codes for {request.prompt!r}"
    return None


def check_melody_parity(device: torch.device, sizes: Sizes) -> str | None:
    """Compare greedy codes under two melodies: another melody must change them."""
    import soundfile
    import transformers

    try:
        import librosa  # noqa: F401
    except ImportError:
        raise Skipped("no librosa, which analyzes melodies") from None
    if tuple(int(part) for part in transformers.__version__.split(".")[:2]) < MELODY_FIXED_IN:
        raise Skipped(f"transformers {transformers.__version__} ignores melodies")
    with tempfile.TemporaryDirectory() as scratch:
        folder = write_checkpoint(Path(scratch, "model"), replace(sizes, kind="melody"), seed=2)
        requests = []
        for pitch_hz in (440.0, 523.25):
            path = Path(scratch, f"{pitch_hz}.wav")
            soundfile.write(path, 0.3 * np.sin(2 * np.pi * pitch_hz * np.arange(32_000) / 32_000), 32_000)
            requests.append(Request(prompt="x", melody=str(path), duration_s=0.3, temperature=0.0).resolve(0, 50))
        model = _load(folder, device, "float32")
        outcomes = _generate(model, requests, slots=2)
        found = [_codes(outcomes[request]) for request in requests]
        if np.array_equal(*found):
            return "another melody gave the same codes"
        expected = _generate(_load(folder, torch.device("cpu"), "float32"), requests, slots=2)
        if not all(
            np.array_equal(_codes(expected[request]), mine) for request, mine in zip(requests, found, strict=True)
        ):
            return "other codes than on the CPU, whose codes the suite compares with transformers'"
    return None


def check_same_bits(device: torch.device, sizes: Sizes) -> str | None:
    """Compare permuted slots, captured steps with eager ones, and a sound decoded twice, in bfloat16."""
    with tempfile.TemporaryDirectory() as scratch:
        model = _load(write_checkpoint(Path(scratch), sizes, seed=3), device, "bfloat16")
        result = check_reproducible(model.decoder, model.codec, slots=64 if device.type == "cuda" else 3, width=2)
    return None if result == "same" else result


def check_out_of_memory(device: torch.device, sizes: Sizes) -> str | None:
    """Let the first step run out of memory: the engine goes on with half the slots, and the codes stay the same."""
    with tempfile.TemporaryDirectory() as scratch:
        model = _load(write_checkpoint(Path(scratch), sizes, seed=4), device, "float32")
        requests = [Request(prompt=f"piano {i}", duration_s=0.2, seed=i) for i in range(4)]
        expected = _generate(model, requests, slots=2)

        def exhaust() -> None:
            if device.type == "cuda":
                torch.empty(2**50, dtype=torch.uint8, device=device)
            raise torch.OutOfMemoryError("CUDA out of memory")

        outcomes = _generate(model, requests, slots=4, before_step=exhaust)
        for request in requests:
            if not np.array_equal(_codes(outcomes[request]), _codes(expected[request])):
                return "other codes after running out of memory"
    return None


def check_prompt_batches(device: torch.device, sizes: Sizes) -> str | None:
    """Compare prompts in other rows of a batch, beside other prompts and alone."""
    with tempfile.TemporaryDirectory() as scratch:
        embedder = _load(write_checkpoint(Path(scratch), sizes, seed=5), device, "float32").text.embedder
    batches = embedder if isinstance(embedder, PromptBatches) else PromptBatches(embedder)
    return None if batches.check_reproducible() else "they differ, so each prompt is encoded alone"


CHECKS: Sequence[tuple[str, Callable[[torch.device, Sizes], str | None]]] = (
    ("kernel values", check_kernel_values),
    ("greedy codes equal transformers'", check_greedy_parity),
    ("melody", check_melody_parity),
    ("same bits in other slots, captured, decoded again", check_same_bits),
    ("prompts beside others", check_prompt_batches),
    ("out of memory", check_out_of_memory),
)


def _load(folder: Path, device: torch.device, dtype: str) -> Any:
    return load_model(folder, str(device), dtype)


def _generate(
    model: Any, requests: Sequence[Request], slots: int, before_step: Callable[[], None] | None = None
) -> dict[Request, Clip | Failed]:
    """Run requests to their end; `before_step` is called once, by the first step."""
    engine = Engine(model, RequestConditioner(model), slots=slots, max_frames=60)
    if before_step is not None:
        stepper, waiting = engine._stepper, [before_step]
        run_step = stepper._run_step

        def step(*arguments: Any) -> None:
            if waiting:
                waiting.pop()()
            run_step(*arguments)

        stepper._run_step = step  # type: ignore[method-assign]
        del stepper
    outcomes: dict[Request, Clip | Failed] = {}
    try:
        for request in requests:
            engine.add(request)
        while engine.busy:
            outcomes.update((outcome.request, outcome) for outcome in engine.step())
    finally:
        engine.close()
    return outcomes


def _codes(outcome: Clip | Failed) -> NDArray[np.int16]:
    if isinstance(outcome, Failed):
        raise AssertionError(f"a clip failed: {outcome}")
    return outcome.codes
