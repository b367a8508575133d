"""Measures for how long a run's actors are held and what they cost, and stops the run at the limits of its job."""

import time
from collections.abc import Callable

from actors.dispatcher import Dispatcher
from musicgen.cluster_settings import ClusterSettings
from musicgen.dataset.pause import Pause, describe_resuming
from musicgen.errors import LimitReached
from musicgen.storage import Store

_SAFE = "what is committed is safe"


class RunLimits:
    """The hours and the cost of one driver's actors, beside the limits of its job, and the pause of its dataset.

    `spent` is what earlier drivers of the run have cost. Time counts while an actor's process is there, by the wall
    clock, also while the driver is stopped.
    """

    def __init__(
        self, settings: ClusterSettings, store: Store, spent: float, monotonic: Callable[[], float] = time.monotonic
    ):
        self.actor_s = 0.0
        self._settings, self._store, self._spent = settings, store, spent
        self._monotonic = monotonic
        self._began_at = self._counted_at = monotonic()
        self._reason: LimitReached | None = None
        self._to_commit: set[int] = set()  # actors whose next commit is waited for before the run stops

    @property
    def cost(self) -> float:
        """What the run has cost so far, with its earlier drivers; 0 without a price."""
        return self._spent + self.actor_s / 3600 * (self._settings.price_per_hour or 0.0)

    def on_reported(self, actor: int) -> None:
        """Record that the actor has ended an attempt: for a run that is to stop it has done enough."""
        self._to_commit.discard(actor)

    def check(self, dispatcher: Dispatcher, pause: Pause | None) -> None:
        """Stop the run if it has come to a limit. Call it in each turn of the pool; raises `LimitReached` at the end.

        Each actor goes on until it has committed a shard. No shard is given out meanwhile, so that little is begun
        which has to be made again.
        """
        now = self._monotonic()
        started = sum(actor.started_at is not None for actor in dispatcher.actors.values())
        self.actor_s += started * (now - self._counted_at)
        self._counted_at = now
        if self._reason is None:
            self._reason = self._find_reason(pause)
            if self._reason is None:
                return
            dispatcher.stopping = True
            self._to_commit = set(dispatcher.actors)
        self._to_commit &= {number for number, actor in dispatcher.actors.items() if actor.attempts}
        if not self._to_commit and not dispatcher.finished:
            raise self._reason

    def describe_stop(self) -> tuple[str, ...]:
        """Return what a run that is to stop waits for; nothing if it is not."""
        if self._reason is None:
            return ()
        actors = "1 actor has" if len(self._to_commit) == 1 else f"{len(self._to_commit)} actors have"
        return (f"stopping when {actors} committed a shard more",)

    def _find_reason(self, pause: Pause | None) -> LimitReached | None:
        settings, hours = self._settings, (self._counted_at - self._began_at) / 3600
        if pause is not None:
            return LimitReached(f"stopped: the dataset is {pause}; {_SAFE}. {describe_resuming(self._store)}")
        if settings.max_cost is not None and self.cost >= settings.max_cost:
            more = 2 * max(self.cost, settings.max_cost)
            return LimitReached(
                f"stopped: the run has cost {self.cost:.2f}, and cluster.max_cost is {settings.max_cost:g}; {_SAFE}. "
                f"To go on, run the same command again with --set cluster.max_cost={more:.4g}"
            )
        if settings.max_hours is not None and hours >= settings.max_hours:
            return LimitReached(
                f"stopped after {hours:.2f} hours (cluster.max_hours is {settings.max_hours:g}); {_SAFE}. To go on, "
                "run the same command again"
            )
        return None
