"""The text of a run's progress."""

from actors.messages import Progress
from musicgen.plan.run_estimate import RunEstimate
from musicgen.run_plan import parse_time


def format_duration(seconds: float) -> str:
    """Format seconds as `h:mm:ss`, or `m:ss` below an hour."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def format_count(count: int, noun: str) -> str:
    """Format a number of things: `1 clip`, `2,000 clips`."""
    return f"{count:,} {noun if count == 1 else noun + 's'}"


def format_audio_length(audio_s: float) -> str:
    """Format seconds of audio: in seconds below two minutes, in minutes below two hours, else in hours."""
    if audio_s < 120:
        return f"{audio_s:.1f} s of audio"
    return f"{audio_s / 60:.1f} min of audio" if audio_s < 7200 else f"{audio_s / 3600:,.1f} h of audio"


def format_rate(rate: float) -> str:
    """Format seconds of audio per second: `2.35x real time`."""
    return f"{rate:.2f}x real time" if rate < 10 else f"{rate:,.0f}x real time"


def format_local_time(text: str) -> str:
    """Format a time of a dataset's files (ISO 8601) by the clock of this place, to the minute; empty if it is none."""
    time = parse_time(text)
    return time.astimezone().strftime("%Y-%m-%d %H:%M") if time is not None else ""


def describe_estimate(estimate: RunEstimate) -> str:
    """Return how long a run will take, and where that is known from."""
    compiling = ", which compiles the CPU kernels once" if estimate.compiles else ""
    each = " an actor" if estimate.actors > 1 else ""
    runs = format_count(estimate.earlier_runs, "earlier run")
    source = f"as in {runs} here" if estimate.earlier_runs else "guessed from the model's size"
    return (
        f"about {format_duration(estimate.seconds)}: {format_duration(estimate.start_s)} to start{compiling}, then "
        f"{format_rate(estimate.rate)}{each} ({source})"
    )


def describe_price(estimate: RunEstimate, price_per_hour: float | None) -> str:
    """Return the hours of actors and GPUs that a run takes by its estimate, and with a price what it costs."""
    hours = f"{estimate.actor_hours:.2f} actor-hours"
    if estimate.gpus_each:
        hours += f", {estimate.gpu_hours:.2f} GPU-hours"
    if price_per_hour is None:
        return hours
    cost = estimate.actor_hours * price_per_hour
    return f"{hours}, a cost of {cost:.2f} at {price_per_hour:g} an actor-hour"


def describe_progress(progress: Progress) -> str:
    """Return one line: clips, failures, the part that is done, speed, and the time that is left."""
    text = f"{progress.settled:,}/{format_count(progress.rows, 'clip')}"
    if progress.failed:
        text += f", {progress.failed} failed"
    if not progress.generating_s:
        return f"{text}, actors are loading the model"
    if progress.done < progress.rows:
        text += f", {int(100 * progress.share)}% done"
    if progress.rate:
        text += f", {format_rate(progress.rate)}"
    return f"{text}, {format_duration(progress.eta_s)} to go" if progress.eta_s is not None else text
