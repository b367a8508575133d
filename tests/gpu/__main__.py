"""`python -m tests.gpu`: checks and measures the CUDA path on a card, without pytest and without a network.

It needs torch, transformers, numpy, soundfile and this source tree, and takes a few minutes; the melody check needs
librosa too. `--device cpu --tiny` rehearses all of it. It exits with 1 if a check has failed.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from tests.gpu.stand_ins import install_stand_ins


def main() -> int:
    """Run all checks, then measure all shapes; print both as tables, and write them as JSON."""
    options = _parse_options()
    install_stand_ins()
    os.environ["HF_HUB_OFFLINE"] = "1"
    if options.device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported
    import torch

    from musicgen.model.cuda_settings import make_cuda_deterministic

    device = torch.device(options.device)
    if device.type == "cuda":
        if not torch.cuda.is_available():
            print(f"torch {torch.__version__} finds no CUDA device; --device cpu --tiny rehearses", file=sys.stderr)
            return 2
        make_cuda_deterministic()
    torch.set_num_threads(min(2, torch.get_num_threads()))
    report: dict[str, Any] = {"machine": _describe_machine(device), "checks": _run_checks(device, options.tiny)}
    report["speed"] = _measure_speed(device, options.tiny)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return int(any(check["result"] == "failed" for check in report["checks"]))


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description="check and measure the CUDA path")
    parser.add_argument("--device", default="cuda", help="cuda (default), cuda:1, cpu")
    parser.add_argument("--tiny", action="store_true", help="a model of nothing, to rehearse")
    parser.add_argument("--out", type=Path, help="write the results here as JSON")
    return parser.parse_args()


def _describe_machine(device: Any) -> dict[str, str]:
    import torch
    import transformers

    from musicgen.model.cuda_settings import cuda_versions

    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    if device.type == "cuda":
        versions |= {"device": torch.cuda.get_device_name(device), **cuda_versions()}
    print(", ".join(f"{name} {value}" for name, value in versions.items()), flush=True)
    return versions


def _run_checks(device: Any, tiny: bool) -> list[dict[str, str]]:
    from tests.fixtures.random_checkpoint import Sizes
    from tests.gpu.checks import CHECKS, Skipped

    sizes = Sizes() if tiny else Sizes(hidden=512, layers=4, heads=8, ffn=2048, codebook_size=1024)
    results = []
    for name, check in CHECKS:
        begin = time.perf_counter()
        try:
            wrong = check(device, sizes)
            result, detail = ("failed", wrong) if wrong else ("passed", "")
        except Skipped as reason:
            result, detail = "skipped", str(reason)
        except Exception as error:  # the other checks are still worth their time
            result, detail = "failed", f"{type(error).__name__}: {error}"
        seconds = time.perf_counter() - begin
        print(f"{result:8} {name} ({seconds:.0f} s){': ' if detail else ''}{detail}", flush=True)
        results.append({"check": name, "result": result, "detail": detail})
    return results


def _measure_speed(device: Any, tiny: bool) -> list[dict[str, Any]]:
    import torch

    from tests.gpu import shapes, speed

    plan, models = (speed.TINY, shapes.TINY) if tiny else (speed.FULL, shapes.PUBLISHED)
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    bandwidth = speed.measure_bandwidth(device)
    print(f"\nbandwidth {bandwidth / 1e9:.0f} GB/s, {str(dtype).removeprefix('torch.')}, {plan.frames} frames a clip")
    print("| model | slots | path | ms a step | audio-s/s | of the bound | transformers, audio-s/s by batch | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    results = []
    for shape in models:
        row = speed.measure_shape(shape, device, dtype, bandwidth, plan)
        peers = ", ".join(
            f"{batch}: {rate:.1f}" if rate else f"{batch}: -" for batch, rate in row["peer_rates"].items()
        )
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.1f}"
        print(
            f"| {shape.name} | {row['slots']} | {row['path']} | {1000 * row['step_s']:.2f} | {row['rate']:.1f} "
            f"| {100 * row['bound_share']:.0f} % | {peers} | {ratio} |",
            flush=True,
        )
        results.append({"bandwidth": bandwidth, **row})
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return results


if __name__ == "__main__":
    sys.exit(main())
