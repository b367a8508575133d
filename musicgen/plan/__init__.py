"""Plans of runs: the missing rows of a manifest, cut into shards and written to the store before any work starts.

outcome = make_plan(job, checkpoint, store)
for shard in pending_shards(store, outcome.plan):
    rows = read_shard(store, outcome.plan, shard)
"""

from typing import TYPE_CHECKING

import lazy_loader

from musicgen.plan.outcome import PlanOutcome
from musicgen.run_plan import Plan, PlanPart

if TYPE_CHECKING:
    from musicgen.plan.planned_runs import load_plan, pending_shards
    from musicgen.plan.planner import make_plan
    from musicgen.plan.shard_files import read_shard

__all__ = ["Plan", "PlanOutcome", "PlanPart", "load_plan", "make_plan", "pending_shards", "read_shard"]

# So that `Plan` and `PlanOutcome` are imported without pyarrow and DuckDB.
__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "planned_runs": ["load_plan", "pending_shards"],
        "planner": ["make_plan"],
        "shard_files": ["read_shard"],
    },
)
