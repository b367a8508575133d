"""`python -m tests.benchmarks --out out/bench.json`: our engine against transformers' `generate`, on this machine, in
one run.

Both sides make the same clips from the same weights (musicgen-small's shape, random), from prompts to waveforms: text
encoder, decoder and codec are in every figure; ms/step is the decoder alone. Results appear case by case and are merged
into the JSON file, so cases can be run one at a time (`--cases`).
"""

import argparse
import signal
import sys
from pathlib import Path

from tests.benchmarks import cases, plots, results
from tests.benchmarks.load import QUIET_CORES
from tests.benchmarks.run import Runner
from tests.benchmarks.suite import Suite
from tests.benchmarks.weights import SHAPES

ROOT = Path(__file__).parents[2]
AUDIOCRAFT = (
    "audiocraft is not timed: its 1.3.0 asks for torch 2.1.0, and for av 11.0.0, which has to be built against an "
    "old FFmpeg; "
    "it cannot be installed beside this project"
)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "bench.json")
    parser.add_argument("--cases", default=",".join(cases.ALL), help=f"comma-separated, of: {', '.join(cases.ALL)}")
    parser.add_argument(
        "--manifest", type=Path, help="CSV with a column `caption` or `prompt`; default: seeded prompts of our own"
    )
    parser.add_argument("--shape", choices=sorted(SHAPES), default="musicgen-small")
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="of our side; the peer takes its fastest",
    )
    parser.add_argument(
        "--mixed-clips",
        type=int,
        help="clips of the mixed case; default: what the peer should make in five and a half minutes",
    )
    parser.add_argument("--mixed-slots", type=int, default=cases.MIXED_SLOTS)
    parser.add_argument("--flow-shape", choices=sorted(SHAPES), default="quarter-small")
    parser.add_argument(
        "--flow-minutes", type=float, default=5.2, help="length of the flow's job by the bare engine's rate"
    )
    parser.add_argument("--flow-slots", type=int, default=16)
    parser.add_argument("--retune", action="store_true", help="look for the peer's best settings again")
    parser.add_argument(
        "--allow-load", action="store_true", help="measure beside other work; results are marked as loaded"
    )
    parser.add_argument("--quiet-cores", type=float, default=QUIET_CORES, help="cores of other work that are tolerated")
    parser.add_argument("--patience-s", type=float, default=60.0, help="how long to wait for the machine to fall quiet")
    options = parser.parse_args(arguments)
    options.cases = [name.strip() for name in options.cases.split(",") if name.strip()]
    unknown = [name for name in options.cases if name not in cases.ALL]
    if unknown:
        parser.error(f"no case {', '.join(unknown)}; cases are {', '.join(cases.ALL)}")
    options.out, options.manifest = options.out.resolve(), options.manifest and options.manifest.resolve()
    return options


def main(arguments: list[str] | None = None, runner: Runner | None = None) -> int:
    """Run the cases. 0: all figures are there; 1: a case was refused or broke."""
    options = parse(arguments)
    folder = options.out.parent / options.out.stem
    runner = runner or Runner(folder / "runs", options.allow_load, options.patience_s, options.quiet_cores)
    suite = Suite(options, runner, folder)
    sound = True
    for name in options.cases:
        result = suite.run(name)
        merged = results.merge(options.out, result)
        sound = sound and not result.get("refused") and not result.get("broken")
        print(f"\n{results.table([result])}\n", flush=True)
        if result.get("operations"):
            print(results.operations_table(result["operations"]), flush=True)
    merged = results.read(options.out)
    print(f"\nall results in {options.out}:\n{results.table(merged)}")
    for path in plots.draw(merged, folder):
        print(f"plot: {path}")
    print(AUDIOCRAFT)
    if not sound:
        print("some cases have no figures; see above", file=sys.stderr)
    return 0 if sound else 1


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # like Ctrl-C: workers end with us
    sys.exit(main())
