"""Makes clips again, by an engine in this process."""

import os
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence

from musicgen.clip import Clip, Failed
from musicgen.dataset import paths
from musicgen.dataset.reader import Dataset
from musicgen.errors import ModelError, RowError
from musicgen.families.family import EngineSettings, FamilyCheckpoint, GenerationEngine
from musicgen.families.registry import resolve_checkpoint
from musicgen.job_sections import ModelSettings
from musicgen.request import Request
from musicgen.run_plan import Plan
from musicgen.storage.patience import SHORT_PATIENCE_S

EngineFactory = Callable[[Dataset, Plan], GenerationEngine]


def find_run_checkpoint(plan: Plan, name: str | None = None) -> FamilyCheckpoint:
    """Find the checkpoint that a run was planned for, by `name`, else by the plan's name, which has no folder.

    Raises `ModelError` if that name means another one here, or none.
    """
    model = ModelSettings.model_validate(plan.job["model"])
    try:
        checkpoint = resolve_checkpoint(name or plan.model.name, plan.model.revision, model.allow_pr)
    except ModelError as error:
        raise ModelError(f"{error}; say with --model where the checkpoint is") from None
    if checkpoint.identity != plan.model.identity:
        raise ModelError(
            f"{name or plan.model.name} is another checkpoint here ({checkpoint.identity[:12]}) than run {plan.run} "
            f"was made with ({plan.model.identity[:12]}); say with --model where that one is"
        )
    return checkpoint


def load_run_engine(dataset: Dataset, plan: Plan, name: str | None = None) -> GenerationEngine:
    """Load the engine that a run was planned for, with the slots that its actors had on CPUs.

    `name` is as for `find_run_checkpoint`, which raises `ModelError`.
    """
    checkpoint, model = find_run_checkpoint(plan, name), ModelSettings.model_validate(plan.job["model"])
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    settings = EngineSettings(
        device=model.device,
        dtype=model.dtype,
        slots=_read_slots(dataset, plan),
        threads=threads,
        longest_s=plan.longest_s,
        store_patience_s=SHORT_PATIENCE_S,
    )
    return checkpoint.family.load_engine(checkpoint, settings)


def _read_slots(dataset: Dataset, plan: Plan) -> int | str:
    import json

    try:
        return int(json.loads(dataset.store.read(paths.slots_file(plan.run)))["slots"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return plan.slots


def make_clips(engine: GenerationEngine, requests: Sequence[Request]) -> Iterator[tuple[int, Clip | RowError]]:
    """Yield the position of each request with its clip, or with the reason why it cannot be made, as they are done."""
    waiting = deque(enumerate(requests))
    inside: dict[Request, deque[int]] = defaultdict(deque)  # equal requests: the first one in is the first one out
    while waiting or engine.busy:
        while waiting and engine.room > 0:
            position, request = waiting.popleft()
            try:
                engine.add(request)
            except RowError as error:
                yield position, error
            else:
                inside[request].append(position)
        for outcome in engine.step() if engine.busy else ():
            yield inside[outcome.request].popleft(), outcome.error if isinstance(outcome, Failed) else outcome
