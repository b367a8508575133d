"""How each case is measured, out of workers' results."""

import argparse
import json
import platform
import sys
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from tests.benchmarks import bound, cases
from tests.benchmarks.bound import ModelShape, StepWork
from tests.benchmarks.machine import Machine
from tests.benchmarks.peer_tuning import BATCHES, FAR, NEAR, choose
from tests.benchmarks.results import Result
from tests.benchmarks.run import Broken, Refused, Runner
from tests.benchmarks.weights import SHAPES, Shape, prepare_checkpoint
from tests.benchmarks.workload import Row, mixed, prompts, uniform
from tests.cuda_trace.guard import find_compiler
from tests.cuda_trace.report import format_steps, run_trace

MIXED_SIZES = (64, 56, 48, 40, 32, 24, 16)


class Suite:
    """Weights, machine and peer's settings, found once; then cases by name."""

    def __init__(self, options: argparse.Namespace, runner: Runner, folder: Path):
        self.options, self.runner, self.folder = options, runner, folder
        self.shape: Shape = SHAPES[options.shape]
        self._checkpoints: dict[str, Path] = {}
        self._machines: dict[str, Machine] = {}
        self._tuning: dict[str, Any] | None = None

    def run(self, name: str) -> Result:
        """Measure a case. One that is refused or breaks is a result too: without figures, with the reason."""
        print(f"== {name}", flush=True)
        empty: Result = {
            "case": name,
            "ours": None,
            "peer": None,
            "ratio": None,
            "bound_share": None,
            "peak_rss_mb": None,
        }
        try:
            if name == cases.PROFILE:
                return self._profile()
            if name == cases.FLOW:
                return self._flow()
            if name == cases.CUDA_STEP:
                return {**empty, "steps": _trace_cuda_step()}
            return self._case(cases.CASES[name])
        except Refused as refusal:
            print(f"{name}: REFUSED: {refusal}", file=sys.stderr, flush=True)
            return {**empty, "refused": str(refusal)}
        except Broken as fault:
            print(f"{name}: BROKEN: {fault}", file=sys.stderr, flush=True)
            return {**empty, "broken": str(fault), "refused": str(fault)}

    # ------------------------------------------------------------ what is found once

    def checkpoint(self, shape: Shape) -> Path:
        """The folder of a shape's weights, with a tokenizer that knows all prompts of this run."""
        if shape.name not in self._checkpoints:
            texts = prompts(512, self.options.manifest)
            self._checkpoints[shape.name] = prepare_checkpoint(self.folder.parent / "bench-weights", shape, texts)
        return self._checkpoints[shape.name]

    def machine(self, dtype: str = "float32") -> Machine:
        """The machine's rates for weights of this dtype, measured in this run."""
        if dtype not in self._machines:
            print(f"measuring the machine in {dtype} ...", flush=True)
            shape: dict[str, Any] = {
                "decoder_rows": [2, 16, 64],
                "hidden": self.shape.hidden,
                "heads_out": 4 * self.shape.codebook_size,
            }
            found = self.runner.run("machine", dtype=dtype, **shape)
            machine = Machine(**{key: found[key] for key in Machine.__dataclass_fields__})
            rates = f"{machine.gflops:.0f} GFLOP/s, {machine.gbps:.1f} GB/s"
            print(f"{machine.processor}, {machine.threads} threads: {rates}", flush=True)
            self._machines[dtype] = machine
        return self._machines[dtype]

    def tuning(self) -> dict[str, Any]:
        """The peer's costs by batch and position; kept in the folder for later runs on the same machine."""
        kept = self.folder / f"peer-{self.shape.name}.json"
        if self._tuning is None and kept.exists() and not self.options.retune:
            self._tuning = json.loads(kept.read_text())
        if self._tuning is None:
            print("looking for transformers' best settings (about two minutes) ...", flush=True)
            self._tuning = self.runner.run(
                "tune", checkpoint=self.checkpoint(self.shape), batches=list(BATCHES), near=NEAR, far=FAR
            )
            if not self._tuning["loaded"]:
                self.folder.mkdir(parents=True, exist_ok=True)
                kept.write_text(json.dumps(self._tuning, indent=1))
        return self._tuning

    # ------------------------------------------------------------ the cases

    def _case(self, case: cases.Case) -> Result:
        tuning = self.tuning()
        rows = self._rows(case, tuning)
        setup, expected_s = choose(tuning, [row.frames for row in rows])
        print(
            f"{case.name}: {len(rows)} clips; transformers: {setup}, expected to take {expected_s:.0f} s a time",
            flush=True,
        )
        same: dict[str, Any] = {
            "checkpoint": self.checkpoint(self.shape),
            "rows": [asdict(row) for row in rows],
            "repeats": case.repeats,
        }
        slots = min(self.options.mixed_slots, len(rows)) if case.mixed else len(rows)
        ours = self.runner.run("ours", slots=slots, dtype=self.options.dtype, **same)
        self._say("ours", ours)
        timeout_s = max(600.0, 3 * expected_s * case.repeats + 120)
        peer = self.runner.run("peer", setup=asdict(setup), warm_clips=setup.batch, timeout_s=timeout_s, **same)
        self._say("transformers", peer)
        dtype = _dtype(ours["details"]["engine"])
        machine = self.machine(dtype)
        model = _model_shape(self.shape, dtype)
        bounds_ms = [1000 * bound.step_s(machine, model, StepWork(**work)) for work in ours["works"]]
        ours_rate, peer_rate = ours["audio_s"] / ours["wall_s"], peer["audio_s"] / peer["wall_s"]
        ours_step, peer_step = _mean(ours["step_ms"]), _mean(peer["step_ms"])
        return {
            "case": case.name,
            "ours": ours_rate,
            "peer": peer_rate,
            "ratio": ours_rate / peer_rate,
            "goal": case.goal,
            "bound_share": sum(bounds_ms) / sum(ours["step_ms"]) if ours["step_ms"] else None,
            "peak_rss_mb": round(ours["peak_rss_mb"]),
            "peer_peak_rss_mb": round(peer["peak_rss_mb"]),
            "clips": len(rows),
            "audio_s": ours["audio_s"],
            "includes": "text encoder, decoder and codec on both sides; ms/step is the decoder with sampling alone",
            "ours_wall_s": ours["wall_s_all"],
            "peer_wall_s": peer["wall_s_all"],
            "peer_codec_s": round(peer["codec_s"], 2),
            "ours_steps": ours["steps"],
            "peer_steps": peer["steps"],
            "ours_ms_step": ours_step,
            "peer_ms_step": peer_step,
            "step_ratio": peer_step / ours_step if ours_step and peer_step and setup.batch == slots else None,
            "ours_step_ms": [round(value, 2) for value in ours["step_ms"]] if not case.mixed else [],
            "peer_step_ms": [round(value, 2) for value in peer["step_ms"]] if not case.mixed else [],
            "bound_step_ms": [round(value, 2) for value in bounds_ms] if not case.mixed else [],
            "ours_setup": ours["details"],
            "peer_setup": peer["details"]["setup"],
            "peer_trials": [
                trial for trial in tuning["trials"] if trial["batch"] == setup.batch or trial["dtype"] == "bfloat16"
            ],
            **_circumstances(machine, ours, peer),
        }

    def _profile(self) -> Result:
        case = cases.CASES["32x400"]
        rows = uniform(case.clips, case.frames, self.options.manifest)
        found = self.runner.run(
            "profile",
            checkpoint=self.checkpoint(self.shape),
            rows=[asdict(row) for row in rows],
            dtype=self.options.dtype,
        )
        dtype = _dtype(found["engine"])
        machine = self.machine(dtype)
        works = [StepWork(**work) for work in found["works"]]
        operations = bound.table(machine, _model_shape(self.shape, dtype), works, found["spent_s"])
        print(
            f"host time outside kernels: {100 * found['host_share']:.2f} % of a step; step by allocation: "
            f"{found['allocations']}"
        )
        return {
            "case": cases.PROFILE,
            "ours": None,
            "peer": None,
            "ratio": None,
            "bound_share": operations[-1]["share"],
            "peak_rss_mb": None,
            "clips": len(rows),
            "ours_ms_step": operations[-1]["actual_ms"],
            "operations": operations,
            "host_share": found["host_share"],
            "host_share_is": "wall time of the steps less time in compiled kernels and torch's operations; "
            "instruments included",
            "allocations": found["allocations"],
            "engine": found["engine"],
            **_circumstances(machine, found),
        }

    def _flow(self) -> Result:
        shape, slots = SHAPES[self.options.flow_shape], self.options.flow_slots
        folder = self.checkpoint(shape)
        sample = mixed(3 * slots, self.options.manifest)
        same: dict[str, Any] = {"checkpoint": folder, "slots": slots}
        probe = self.runner.run("ours", rows=[asdict(row) for row in sample], repeats=1, warm_clips=2, **same)
        rate = probe["audio_s"] / probe["wall_s"]
        mean_s = fmean(row.audio_s for row in sample)
        clips = max(3 * slots, round(60 * self.options.flow_minutes * rate / mean_s))
        rows = [asdict(row) for row in mixed(clips, self.options.manifest)]
        timeout_s = 60 * self.options.flow_minutes * 3 + 300
        print(
            f"flow: {clips} clips of {shape.name}; the bare engine made {rate:.2f} audio-s/s in a short trial",
            flush=True,
        )
        bare = self.runner.run("ours", rows=rows, repeats=1, warm_clips=2, timeout_s=timeout_s, **same)
        self._say("bare engine", bare)
        flow = self.runner.run("flow", rows=rows, folder=self.folder / "flow", timeout_s=timeout_s, **same)
        self._say("flow", flow)
        bare_rate = bare["audio_s"] / bare["wall_s"]
        return {
            "case": cases.FLOW,
            "ours": flow["rate"],
            "peer": bare_rate,
            "ratio": flow["rate"] / bare_rate,
            "goal": 0.95,
            "bound_share": None,
            "peak_rss_mb": round(flow["peak_rss_mb"]),
            "peer_is": "the bare engine, same rows, same slots, codec included",
            "peer_peak_rss_mb": round(bare["peak_rss_mb"]),
            "clips": clips,
            "audio_s": bare["audio_s"],
            "ours_wall_s": [flow["wall_s"]],
            "peer_wall_s": bare["wall_s_all"],
            "command_s": flow["command_s"],
            "ours_setup": {"engine": flow["engines"], "slots": slots, "shape": shape.name},
            "peer_setup": bare["details"],
            **_circumstances(None, bare, flow),
        }

    def _rows(self, case: cases.Case, tuning: dict[str, Any]) -> list[Row]:
        """The case's rows. The mixed case has as many as the peer should make in MIXED_PEER_S."""
        if not case.mixed:
            return uniform(case.clips, case.frames, self.options.manifest)
        sizes = (self.options.mixed_clips,) if self.options.mixed_clips else MIXED_SIZES
        for clips in sizes:
            rows = mixed(clips, self.options.manifest)
            if choose(tuning, [row.frames for row in rows])[1] <= cases.MIXED_PEER_S:
                break
        return rows

    def _say(self, who: str, timing: dict[str, Any]) -> None:
        print(f"  {who}: {timing['audio_s'] / timing['wall_s']:.3f} audio-s/s in {timing['wall_s']:.1f} s", flush=True)


def _trace_cuda_step() -> list[dict[str, Any]]:
    """Count a decode step on a GPU at the published sizes, and print the table."""
    if find_compiler() is None:
        raise Refused("the trace needs a C++ compiler")
    steps = run_trace("steps")
    print(format_steps(steps), flush=True)
    return steps


def _model_shape(shape: Shape, dtype: str) -> ModelShape:
    width = 4 if dtype == "float32" else 2
    return ModelShape(shape.layers, shape.hidden, shape.ffn, 4, shape.codebook_size, width, width)


def _dtype(fingerprint: str) -> str:
    """Of the engine's weights and cache; int8 weights count as the two bytes that they are multiplied in."""
    found = json.loads(fingerprint)["dtype"]
    return found if found in ("float32", "bfloat16") else "bfloat16"


def _mean(values: list[float]) -> float | None:
    return fmean(values) if values else None


def _circumstances(machine: Machine | None, *measured: dict[str, Any]) -> dict[str, Any]:
    import torch
    import transformers

    return {
        "loaded": any(one["loaded"] for one in measured),
        "others_cores": max(one["others_cores"] for one in measured),
        "machine": machine.to_json() if machine else None,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }
