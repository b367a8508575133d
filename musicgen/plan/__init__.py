"""Plans: which rows are missing, cut into shards and frozen in the store before any work starts."""

from musicgen.plan.plan import Plan, PlannedModel, PlanOutcome, PlanPart, ShardRows

__all__ = ["Plan", "PlanOutcome", "PlanPart", "PlannedModel", "ShardRows"]
