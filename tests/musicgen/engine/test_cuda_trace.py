"""The engine's CUDA path without a card: its operations run on fake CUDA tensors at the published widths.

Wrong devices, and reads of the device by the host, raise there or are counted.
"""

import pytest

from tests.cuda_trace.guard import find_compiler
from tests.cuda_trace.models import SIZES
from tests.cuda_trace.report import format_steps, run_trace

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="the trace needs a C++ compiler")

MISTAKES = ("two devices", "a number read", "a shape read", "an index on the host")


@pytest.fixture(scope="module", params=["events", pytest.param("fallback-events", marks=pytest.mark.slow)])
def costs(request):
    """Of Triton's path, and of torch's operations alone."""
    return {(cost["kind"], cost["name"]): cost for cost in run_trace(request.param)}


@pytest.mark.parametrize(
    ("mistake", "error"),
    [
        ("two devices", "FakeTensorDeviceMismatchError"),
        ("a number read", "DataDependentOutputException"),
        ("a shape read", "DynamicOutputShapeException"),
    ],
)
def test_the_trace_refuses_what_a_card_refuses_or_waits_for(costs, mistake, error):
    assert costs["text", mistake]["error"].startswith(error)


def test_the_trace_counts_operands_on_the_host(costs):
    assert costs["text", "an index on the host"]["host_operands"] == {"index": 1}


@pytest.mark.parametrize("kind", ["text", "melody", "style"])
def test_no_event_or_step_mixes_devices_or_reads_the_device(costs, kind):
    apart = (*MISTAKES, "decode")
    events = [cost for (of_kind, name), cost in costs.items() if of_kind == kind and name not in apart]
    assert len(events) == 11
    for cost in events:
        assert not cost["error"], cost
        assert not cost["host_operands"], cost
        assert cost["host_reads"] == (1 if cost["name"] == "take" else 0), cost
        assert cost["blocking_copies"] == (1 if cost["name"] == "lengthen" else 0), (
            "but for a longer table of positions"
        )
        # The third call of `step` waits until the first is done, so that the host is at most two ahead.
        assert cost["host_waits"] == (1 if cost["name"] in ("read", "step of the longer cache") else 0), cost


@pytest.mark.parametrize("kind", ["melody", "style"])
def test_the_null_prefix_is_computed_once(costs, kind):
    first, other = costs[kind, "place"], costs[kind, "place another"]
    assert other["kernels"] < first["kernels"] - 10
    assert other["bytes"] < 0.8 * first["bytes"]


def test_a_clip_is_decoded_without_a_host_read_but_for_its_sound(costs):
    cost = costs["text", "decode"]
    assert not cost["error"], cost
    assert not cost["host_operands"], cost
    assert (cost["host_copies"], cost["host_reads"]) == (2, 1), "codes to the device, sound back"


@pytest.mark.parametrize("kind", ["text", "melody", "style"])
def test_a_step_copies_nothing_between_host_and_device(costs, kind):
    assert costs[kind, "step"]["kernels"] > 12
    assert costs[kind, "step"]["host_copies"] == 0


@pytest.fixture(scope="module")
def steps():
    """Of each size, a step of as many slots as fit a card of 80 GB, and of one: rows half as long as the longest."""
    found = run_trace("filled-steps")
    return {size: [cost for cost in found if cost["size"] == size] for size in SIZES}


@pytest.mark.parametrize("size", SIZES)
def test_a_step_keeps_its_budget_of_kernels_and_bytes(steps, size):
    filled, one_clip = steps[size]
    for cost in (filled, one_clip):
        assert cost["kernels_per_layer"] <= 15
        assert cost["kernels"] - cost["layers"] * cost["kernels_per_layer"] <= 10
        assert cost["bytes"] <= 1.3 * cost["least_bytes"]
    assert one_clip["slots"] == 1
    assert filled["slots"] > 40
    assert filled["bound_share"] > 0.7
    assert f"| {size} | {filled['slots']} | 1536 |" in format_steps([filled])


@pytest.mark.slow
def test_running_slots_wait_no_longer_than_four_steps(steps):
    """By the model of the steps' duration, half the peak rate of products, and 15 us a launch outside graphs.

    A build without CUDA traces torch's causal attention in its parts, thirty kernels where a card has one.
    """
    for cost in run_trace("placing"):
        filled, _ = steps[cost["size"]]
        assert cost["longest_s"] < 4 * filled["expected_s"], cost
        assert len(cost["kernels"]) >= (cost["known"] // 256 or cost["clips"] // 4), cost


@pytest.mark.slow
def test_a_step_of_the_small_model_without_triton_costs_no_more_than_it_did():
    half_filled, filled, _ = run_trace("fallback-steps", "small")
    assert (half_filled["longest"], filled["longest"]) == (768, 1536)
    assert half_filled["kernels_per_layer"] <= 213
    assert filled["kernels"] <= 8668
    assert filled["bytes"] <= 294.1e9
    assert filled["least_bytes"] == pytest.approx(19.9e9, rel=0.01)
