"""`python -m tests.benchmarks.one_clip`: seconds from the shell for one clip of 2 s with the embedded model.

The command is `musicgen run` with `cluster.address=none`. The first run fills the file cache and compiles the kernels,
and is not counted. The goal is 6 s on two processors that do nothing else. Most of the time goes to imports: those of
torch and pyloudnorm, which no run does without, are timed beside it as the machine's own bound.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

GOAL_S = 6.0
_TAKES = 3


def time_one_clip(folder: Path) -> float:
    """Make one clip in a new dataset below `folder`, and return the seconds that the command took."""
    manifest = folder / "one.csv"
    manifest.write_text("prompt,duration_s\n" + '"warm piano, 80 bpm",2\n')
    command = [str(Path(sys.executable).with_name("musicgen")), "run", "--manifest", str(manifest)]
    command += ["--output", tempfile.mkdtemp(dir=folder), "--model", "embedded", "--set", "cluster.address=none"]
    return _time_command(command)


def time_imports() -> float:
    """Return the seconds that an interpreter takes to start, import torch and pyloudnorm, and end."""
    return _time_command([sys.executable, "-c", "import torch, pyloudnorm"])


def _time_command(command: list[str]) -> float:
    begun_at = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    return time.monotonic() - begun_at


def main() -> None:
    """Print the seconds of each take, and those of the imports."""
    with tempfile.TemporaryDirectory() as folder:
        time_one_clip(Path(folder))
        takes = [time_one_clip(Path(folder)) for _ in range(_TAKES)]
    shown = ", ".join(f"{take:.1f}" for take in takes)
    print(f"one clip of 2 s from the shell: {min(takes):.1f} s (of {shown}; goal {GOAL_S:.0f} s)")
    print(f"imports of torch and pyloudnorm alone: {min(time_imports() for _ in range(_TAKES)):.1f} s")


if __name__ == "__main__":
    main()
