"""Plans: which rows are missing, cut into shards and frozen in the store before any work starts.

outcome = make_plan(job, checkpoint, store)
for shard in pending_shards(store, outcome.plan):
    rows = read_shard(store, outcome.plan, shard)
"""

from typing import TYPE_CHECKING, Any

from musicgen.plan.plan import Plan, PlannedModel, PlanOutcome, PlanPart, ShardRows

if TYPE_CHECKING:
    from musicgen.plan.make import make_plan
    from musicgen.plan.parts import read_shard
    from musicgen.plan.past import load_plan, pending_shards

__all__ = [
    "Plan",
    "PlanOutcome",
    "PlanPart",
    "PlannedModel",
    "ShardRows",
    "load_plan",
    "make_plan",
    "pending_shards",
    "read_shard",
]

_WHERE = {"make_plan": "make", "read_shard": "parts", "load_plan": "past", "pending_shards": "past"}


def __getattr__(name: str) -> Any:
    # pyarrow and DuckDB are imported when something is planned or read, not by everything that knows a plan.
    if name in _WHERE:
        from importlib import import_module

        return getattr(import_module(f"musicgen.plan.{_WHERE[name]}"), name)
    raise AttributeError(name)
