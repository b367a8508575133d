"""The text of progress, of an estimate and of a summary: one rate, and where an estimate comes from."""

from dataclasses import replace

from actors.messages import Progress
from flows.progress import describe_estimate, describe_progress
from flows.summary import Summary
from musicgen.plan.run_estimate import RunEstimate
from musicgen.unfinished_clips import UnfinishedClips


def test_progress_moves_with_the_steps_of_clips_that_are_being_made() -> None:
    progress = Progress(8, 1, generating_s=10.0)
    assert describe_progress(Progress(8, 1)) == "0/8 clips, actors are loading the model"
    assert describe_progress(progress) == "0/8 clips, 0% done"
    progress = replace(progress, unfinished=UnfinishedClips(2.0, 16.0))
    assert describe_progress(progress) == "0/8 clips, 25% done, 1.60x real time, 0:30 to go"


def test_bar_and_summary_give_one_rate() -> None:
    progress = Progress(8, 1, shards_done=1, made=8, audio_s=64.0, generating_s=10.0)
    summary = Summary("out", "r1-1", "files", 8, 8, 0, 0, 8, audio_s=64.0, seconds=25.0, generating_s=10.0)
    assert describe_progress(progress) == "8/8 clips, 6.40x real time, 0:00 to go"
    first = summary.to_text().splitlines()[0]
    assert first == "8 of 8 clips made, 64.0 s of audio in 0:25: 0:15 to start, then 6.40x real time (run r1-1)"


def test_a_summary_tells_its_own_clips_from_those_of_others() -> None:
    summary = Summary("out", "r1-1", "files", 24, 24, 0, 0, 16, audio_s=48.0, seconds=25.0, generating_s=10.0)
    first = summary.to_text().splitlines()[0]
    assert first.startswith("24 of 24 clips made (16 now), 48.0 s of audio in 0:25: 0:15 to start, then 4.80x")
    helped = replace(summary, made_here=0, audio_s=0.0).to_text().splitlines()[0]
    assert helped == "24 of 24 clips made (none by this command), 0.0 s of audio in 0:25 (run r1-1)"


def test_an_estimate_says_where_it_comes_from() -> None:
    estimate = RunEstimate(64.0, 20.0, 16.0, 1)
    assert (
        describe_estimate(estimate) == "about 0:24: 0:20 to start, then 16x real time (guessed from the model's size)"
    )
    earlier = replace(estimate, rate=3.2, actors=2, earlier_runs=1, compiles=True)
    assert describe_estimate(earlier) == (
        "about 0:30: 0:20 to start, which compiles the CPU kernels once, then 3.20x real time an actor "
        "(as in 1 earlier run here)"
    )
