"""`musicgen` alone needs neither Ray nor Prefect nor FastAPI: their import is refused here."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

_REFUSE_AND_GENERATE = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("ray", "prefect", "fastapi"):
            raise ModuleNotFoundError(f"refused: {name}", name=name)

sys.meta_path.insert(0, Refuse())

for name in ("ray", "prefect", "fastapi"):
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    sys.exit(f"{name} was not refused")

import musicgen

model = musicgen.MusicGen.from_pretrained("embedded", device="cpu")
(clip,) = model.generate([musicgen.Request(prompt="happy piano, 112 bpm, in D major", duration_s=0.5)])
print(clip.audio.shape[-1] == 0.5 * clip.sample_rate, abs(clip.audio).max() > 0)
"""


def test_clips_are_generated_without_ray_prefect_and_fastapi() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _REFUSE_AND_GENERATE], cwd=ROOT, capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True", "True"]
