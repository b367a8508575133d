"""The benchmark runs end to end on a tiny model. What the timings are decides nothing here; that both sides did the
same work, that bounds are bounds, and that a loaded machine gets no figures, does."""

import contextlib
import json
import subprocess
import sys
import time

import psutil
import pytest

from tests.benchmarks import __main__ as command
from tests.benchmarks import load, results, worker
from tests.benchmarks.bound import ModelShape, StepWork, operations, step_s, table
from tests.benchmarks.machine import Machine
from tests.benchmarks.peer_tuning import choose
from tests.benchmarks.run import Refused, Runner
from tests.benchmarks.workload import mixed, uniform

SMALL = ModelShape(layers=24, hidden=1024, ffn=4096, codebooks=4, codebook_size=2048)
MACHINE = Machine(gflops=100.0, gbps=20.0, dtype="float32", threads=2, processor="")


class HereRunner(Runner):
    """Runs workers in this process: importing torch for each would take longer than all they do."""

    def run(self, kind, timeout_s=0.0, **spec):
        shorter = {
            "tune": {"batches": [1, 2], "near": 2, "far": 6},
            "machine": {"decoder_rows": [2], "seconds_each": 0.002},
        }
        if kind == "profile":
            shorter[kind] = {"rows": [{**row, "frames": 20} for row in spec["rows"][:4]]}
        result = worker.KINDS[kind](
            json.loads(json.dumps({"kind": kind, **spec, **shorter.get(kind, {})}, default=str))
        )
        return {**json.loads(json.dumps(result)), "others_cores": 0.0, "others_peak_cores": 0.0, "loaded": False}


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    out = tmp_path_factory.mktemp("bench") / "bench.json"
    arguments = ["--out", str(out), "--shape", "tiny", "--mixed-clips", "3", "--mixed-slots", "2"]
    first = command.main([*arguments, "--cases", "1x60"], HereRunner(out.parent))
    then = command.main([*arguments, "--cases", "mixed,profile"], HereRunner(out.parent))
    assert (first, then) == (0, 0)
    return {result["case"]: result for result in results.read(out)}


@pytest.mark.slow
def test_results_say_what_the_contract_promises_and_cases_are_merged(bench):
    assert list(bench) == ["1x60", "mixed", "profile"]
    for result in bench.values():
        assert {"case", "ours", "peer", "ratio", "bound_share", "peak_rss_mb"} <= result.keys()
    for case in ("1x60", "mixed"):
        assert bench[case]["ratio"] == pytest.approx(bench[case]["ours"] / bench[case]["peer"])
        assert bench[case]["bound_share"] > 0
    assert bench["mixed"]["audio_s"] == pytest.approx(sum(row.audio_s for row in mixed(3)))


@pytest.mark.slow
def test_steps_are_counted_by_position(bench):
    one = bench["1x60"]
    assert len(one["peer_step_ms"]) == 60 + 3 - 1  # intervals between the delay pattern's steps
    assert len(one["ours_step_ms"]) == len(one["bound_step_ms"]) == 60 + 3 - 1
    assert one["bound_step_ms"] == sorted(one["bound_step_ms"])


@pytest.mark.slow
def test_the_profile_accounts_for_the_whole_step(bench):
    profile = bench["profile"]
    named = {row["operation"]: row for row in profile["operations"]}
    parts = sum(row["actual_ms"] for name, row in named.items() if name != "step")
    assert parts == pytest.approx(named["step"]["actual_ms"], rel=0.01)
    for name in ("qkv", "self_attention", "cross_attention", "ffn_up", "ffn_down", "heads", "sample", "embed", "norm"):
        assert named[name]["actual_ms"] > 0, name
    assert "other_linear" not in named
    assert 0 <= profile["host_share"] < 1


def test_the_bound_grows_with_what_a_step_reads_and_multiplies():
    step = StepWork(rows=64, crossed=32, positions=64 * 200, text=32 * 20)
    by_name = {operation.name: operation for operation in operations(SMALL, step)}
    assert (
        by_name["self_attention"].read_bytes == 2 * 64 * 200 * 1024 * 24 * 4
    )  # keys and values of all layers, float32
    assert by_name["qkv"].flops == 2 * 64 * 1024 * 3 * 1024 * 24
    assert by_name["cross_query"].flops == by_name["self_out"].flops / 2  # null rows have none
    later = StepWork(rows=64, crossed=32, positions=64 * 400, text=32 * 20)
    more = step_s(MACHINE, SMALL, later) - step_s(MACHINE, SMALL, step)
    assert more == pytest.approx(2 * 64 * 200 * 1024 * 24 * 4 / 20e9)
    alone = StepWork(rows=2, crossed=1, positions=2, text=20)  # weights are read whole however few rows there are
    weights = 24 * (6 * 1024**2 + 2 * 1024 * 4096) + 1024 * 4 * 2048
    assert step_s(MACHINE, SMALL, alone) == pytest.approx(4 * weights / 20e9, rel=0.01)
    rows = table(MACHINE, SMALL, [step, later], {"self_attention": 1.0, "elsewhere": 0.5})
    assert rows[-1]["actual_ms"] == pytest.approx(750.0)
    assert {row["operation"]: row["bound_ms"] for row in rows}["elsewhere"] == 0.0


def test_the_peer_gets_the_batch_that_costs_least():
    costs = [
        {"batch": 1, "near_s": 0.1, "far_s": 0.1},
        {"batch": 4, "near_s": 0.2, "far_s": 1.2},
        {"batch": 32, "near_s": 0.3, "far_s": 0.6},
    ]
    tuning = {"dtype": "float32", "attention": "sdpa", "costs": costs}
    setup, seconds = choose(tuning, [397] * 4)
    assert setup.batch == 1
    assert seconds == pytest.approx(4 * 400 * 0.1)
    costs[0] |= {"near_s": 0.2, "far_s": 0.2}  # one by one is no longer worth it
    setup, seconds = choose(tuning, [397] * 4)
    assert setup.batch == 4  # 32 clips are not there
    assert seconds == pytest.approx(400 * (0.2 + 1.0 * (200 - 32) / (400 - 32)))
    assert choose(tuning, [397])[0].batch == 1


def test_workloads_are_the_same_every_time(tmp_path):
    assert mixed(40) == mixed(40)
    assert mixed(40)[:20] == [*mixed(20)]
    assert {100 <= row.frames <= 600 for row in mixed(200)} == {True}
    manifest = tmp_path / "prompts.csv"
    manifest.write_text("ytid,caption\na,slow piano\nb,fast drums\n")
    assert {row.prompt for row in uniform(20, 60, manifest)} == {"slow piano", "fast drums"}


def test_a_loaded_machine_gets_no_figures(tmp_path):
    with pytest.raises(Refused, match="other work uses"):
        Runner(tmp_path, patience_s=0.0, quiet_cores=-1.0).run("machine")  # nobody is that quiet
    assert not list(tmp_path.iterdir())


def test_our_own_processes_are_not_other_work_even_after_their_end():
    before = load._read()
    child = subprocess.Popen(
        [sys.executable, "-c", "import time\nwhile time.process_time() < 0.6: pass\ninput()"], stdin=subprocess.PIPE
    )
    try:
        while sum(psutil.Process(child.pid).cpu_times()[:2]) < 0.5:
            time.sleep(0.05)
        living = load._read()
    finally:
        child.communicate(b"\n")
    reaped = load._read()
    assert living.ours_s - before.ours_s > 0.45
    assert reaped.ours_s - before.ours_s > 0.45
    assert load._Reading(10.0, 5.0, 1.0).others_since(load._Reading(0.0, 0.0, 0.0)) == pytest.approx(0.4)


def test_processes_that_nobody_waits_for_stay_ours():
    family = load._Family()
    before = family.seconds()
    # beyond what is waited for: the kernel counts in ticks
    busy = "import time\nwhile time.process_time() < 0.8: pass\ntime.sleep(60)"
    start = f"subprocess.Popen([sys.executable, '-c', {busy!r}], stdout=subprocess.DEVNULL)"
    middle = f"import subprocess, sys\nprint({start}.pid, flush=True)\ninput()"
    parent = subprocess.Popen([sys.executable, "-c", middle], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    grandchild = psutil.Process(int(parent.stdout.readline()))
    try:
        while sum(grandchild.cpu_times()[:2]) < 0.6:
            time.sleep(0.05)
        living = family.seconds()
    finally:
        parent.communicate(b"\n")  # it goes without a look at its child
        grandchild.kill()
    with contextlib.suppress(psutil.NoSuchProcess):
        while grandchild.status() != psutil.STATUS_ZOMBIE:  # it stays one where nobody collects orphans
            time.sleep(0.05)
    assert living - before > 0.55
    assert family.seconds() >= living
