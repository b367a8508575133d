"""The result of a run, as values and as text for people."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from flows.next_commands import describe_page_opener, list_next_commands
from flows.own_command import own_command
from flows.progress import format_audio_length, format_count, format_duration, format_rate


def describe_missing_audio(audio_files: Sequence[str], dataset: str) -> str:
    """Return one line about audio files of a dataset that are gone."""
    more = f" and {len(audio_files) - 1:,} more" if len(audio_files) > 1 else ""
    return (
        f"missing from the dataset: {audio_files[0]}{more}; load_dataset is given the other clips, and "
        f"`{own_command('verify', dataset)}` names all damage, which `musicgen repair` mends"
    )


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
    made_here: int  # of the clips, those that this call made
    audio_s: float  # of the clips that this call made
    seconds: float  # since the job was opened, with planning, the start of Ray and its actors, and the card
    generating_s: float = 0.0  # of these, since the first actor was ready
    cluster: str = ""
    crashes: int = 0
    preemptions: int = 0
    losses: int = 0  # of actors, with their node or for lack of memory
    kills: int = 0  # of actors that did not answer or stood still
    set_aside: dict[str, str] = field(default_factory=dict)  # host where no actor was started any more -> why
    given_up: dict[int, str] = field(default_factory=dict)  # shard -> reason
    failures: tuple[tuple[str, str, str], ...] = ()  # (source, class, reason) of the first ones
    slow_path: str = ""  # why a CPU ran without the compiled kernels
    example: str = ""  # an audio file of the run, inside the dataset
    notes: tuple[str, ...] = ()  # files of the user's that were left alone, each as a sentence
    missing_audio: tuple[str, ...] = ()  # audio files of the dataset, of any run, that are gone
    page: str = ""  # where the run's page is; empty if it has none
    cost: float | None = None  # of the run's actors, of all commands that worked on it; None without a price

    @property
    def missing(self) -> int:
        """Rows planned and neither made nor failed."""
        return max(0, self.rows - self.made - self.failed)

    @property
    def all_made(self) -> bool:
        """Whether nothing failed and nothing is missing."""
        return not (self.failed or self.invalid or self.missing or self.missing_audio)

    def to_dict(self) -> dict[str, object]:
        """Return the values for `--json`."""
        return {**asdict(self), "missing": self.missing}

    def to_text(self) -> str:
        """Return the last lines of `musicgen run`: counts, failures, and commands to go on with."""
        lines = [
            f"{self.made:,} of {format_count(self.rows, 'clip')} made{self._describe_own()}, "
            f"{format_audio_length(self.audio_s)} in {format_duration(self.seconds)}{self._describe_rate()} "
            f"(run {self.run})"
        ]
        if self.cost is not None:
            lines.append(f"the run has cost {self.cost:,.2f} (cluster.price_per_hour)")
        if self.slow_path:
            lines.append(f"it ran on torch's operations, which are slower than the compiled kernels: {self.slow_path}")
        replaced = {
            "crashed": self.crashes,
            "lost with their node or preempted": self.losses + self.preemptions,
            "ended because they did not answer": self.kills,
        }
        if any(replaced.values()):
            counts = ", ".join(f"{count} {fate}" for fate, count in replaced.items() if count)
            lines.append(f"actors replaced: {counts}")
        lines += [f"no more actors were started on {host}: {reason}" for host, reason in self.set_aside.items()]
        if self.failed or self.invalid:
            lines.append(f"failed rows: {self.failed}, refused while planning: {self.invalid}")
            lines += [f"  {source}: {error_class}: {reason}" for source, error_class, reason in self.failures]
            hidden = self.failed + self.invalid - len(self.failures)
            lines += [f"  ... and {hidden} more in {self.dataset}/failures/"] if hidden > 0 else []
        for shard, reason in list(self.given_up.items())[:5]:
            lines.append(f"shard {shard} was given up: {reason}")
        if self.missing:
            lines.append(f"missing: {format_count(self.missing, 'row')}; run the same command again to go on")
        if self.missing_audio:
            lines.append(describe_missing_audio(self.missing_audio, self.dataset))
        lines += self.notes
        commands = list_next_commands(self.dataset, self.made)
        if self.page:
            commands.append(f"{'page':<8} {describe_page_opener(self.page) if '://' not in self.page else self.page}")
        return "\n".join([*lines, "", *commands])

    def _describe_own(self) -> str:
        """Return how many of the clips this command made, if earlier or other ones made some."""
        if self.made_here >= self.made:
            return ""
        return f" ({self.made_here:,} now)" if self.made_here else " (none by this command)"

    def _describe_rate(self) -> str:
        """Return what was not generating, and the rate while it was, which the progress bar shows too."""
        if not (self.generating_s and self.audio_s):
            return ""
        start_s = max(0.0, self.seconds - self.generating_s)
        return f": {format_duration(start_s)} to start, then {format_rate(self.audio_s / self.generating_s)}"
