"""The result of a run, as values and as text for people."""

import sys
from dataclasses import asdict, dataclass, field

from flows.progress import format_duration


@dataclass(frozen=True)
class Summary:
    """How a run has ended. The rows are those that the run planned; `invalid` ones were refused while planning."""

    dataset: str
    run: str
    layout: str
    rows: int
    made: int
    failed: int
    invalid: int
    audio_s: float  # of the clips that this call made
    seconds: float
    cluster: str = ""
    crashes: int = 0
    preemptions: int = 0
    given_up: dict[int, str] = field(default_factory=dict)  # shard -> reason
    failures: tuple[tuple[str, str, str], ...] = ()  # (source, class, reason) of the first ones
    slow_path: str = ""  # why a CPU ran without the compiled kernels
    example: str = ""  # an audio file of the run, inside the dataset

    @property
    def missing(self) -> int:
        """Rows planned and neither made nor failed."""
        return max(0, self.rows - self.made - self.failed)

    @property
    def all_made(self) -> bool:
        """Whether nothing failed and nothing is missing."""
        return not (self.failed or self.invalid or self.missing)

    def to_dict(self) -> dict[str, object]:
        """Return the values for `--json`."""
        return {**asdict(self), "missing": self.missing}

    def to_text(self) -> str:
        """Return the last lines of `musicgen run`: counts, failures, and commands to go on with."""
        rate = f", {self.audio_s / self.seconds:.2f} audio-s/s" if self.seconds > 0 else ""
        lines = [
            f"{self.made} of {self.rows} clips made, {self.audio_s:.1f} s of audio in "
            f"{format_duration(self.seconds)}{rate} (run {self.run})"
        ]
        if self.slow_path:
            lines.append(f"it ran on torch's operations, which are slower than the compiled kernels: {self.slow_path}")
        if self.crashes or self.preemptions:
            lines.append(f"actors replaced: {self.crashes} crashed, {self.preemptions} preempted")
        if self.failed or self.invalid:
            lines.append(f"failed rows: {self.failed}, refused while planning: {self.invalid}")
            lines += [f"  {source}: {error_class}: {reason}" for source, error_class, reason in self.failures]
            hidden = self.failed + self.invalid - len(self.failures)
            lines += [f"  ... and {hidden} more in {self.dataset}/failures/"] if hidden > 0 else []
        for shard, reason in list(self.given_up.items())[:5]:
            lines.append(f"shard {shard} was given up: {reason}")
        if self.missing:
            lines.append(f"{self.missing} rows are missing; run the same command again to go on")
        return "\n".join([*lines, "", *self._next_commands()])

    def _next_commands(self) -> list[str]:
        dataset = self.dataset.rstrip("/")
        remote = "://" in dataset
        lines = [f"dataset  {dataset}"]
        if self.example and self.layout == "files":
            opener = "open" if sys.platform == "darwin" else "xdg-open"
            example = f"{dataset}/{self.example}"
            lines.append(
                f"listen   aws s3 cp {example} ." if dataset.startswith("s3://") else f"listen   {opener} {example}"
            )
        else:
            lines.append(f"listen   musicgen.dataset.open_dataset({dataset!r}).audio(key) gives (samples, rate)")
        lines += [
            f"load     datasets.load_dataset({dataset!r})"
            if not remote
            else f"load     musicgen.dataset.open_dataset({dataset!r}).to_arrow()",
            f"query    duckdb -c \"select key, prompt, duration_s from '{dataset}/index/**/*.parquet' limit 5\"",
            f"check    musicgen verify {dataset} --deep",
        ]
        return lines
