"""The sections of a job file that say where it runs, at what price, and where its numbers go."""

from typing import Annotated

from pydantic import AfterValidator, Field, field_validator, model_validator

from musicgen.job_types import (
    Auto,
    Number,
    PositiveInt,
    PositiveNumber,
    Section,
    Whole,
    make_absolute,
    refuse_secret,
)

NO_CLUSTER = "none"
"""The `cluster.address` of a run in one process, without Ray."""


class ActorRange(Section):
    """Between `min` and `max` actors, as many as the cluster has room for."""

    min: PositiveInt = 1
    """Start with so many."""
    max: PositiveInt
    """Grow to so many."""

    @model_validator(mode="after")
    def _check_order(self) -> "ActorRange":
        if self.min > self.max:
            raise ValueError(f"has min {self.min}, more than max {self.max}")
        return self


def _refuse_several_gpus(gpus: float) -> float:
    if gpus > 1:
        raise ValueError("must be at most 1, because an actor computes on one GPU (`cluster.actors` sets their number)")
    return gpus


LabelValue = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$")]


class ClusterSettings(Section):
    """Where the job runs, and on how many actors. Nothing here changes a clip, a key or a run's name."""

    address: Annotated[str, Field(min_length=1), AfterValidator(refuse_secret)] = "auto"
    """The Ray cluster; auto: that of RAY_ADDRESS, else a local one; local: always a local one; none: no Ray, one
    actor in this process.
    """
    actors: PositiveInt | ActorRange | Auto = "auto"
    """Actors, of which each holds a model; auto: one for each GPU of the cluster, one where it has none."""
    gpus_per_actor: Annotated[Number, Field(ge=0), AfterValidator(_refuse_several_gpus)] | Auto = "auto"
    """GPUs of an actor, at most 1; a fraction shares a card; auto: 1 where the cluster has GPUs."""
    cpus_per_actor: Annotated[Number, Field(ge=0)] | Auto = "auto"
    """Processors that an actor reserves; auto: 4 beside a GPU, else a share of its machine."""
    node_labels: dict[str, LabelValue] = Field(default_factory=dict)
    """Labels of Ray that a node must have to get an actor, such as `{ray.io/node-group: a100}`."""
    preferred_labels: dict[str, LabelValue] = Field(default_factory=dict)
    """Labels of the nodes that get actors first, such as `{ray.io/market-type: spot}`; the others do where none is."""
    slots: Annotated[Whole, Field(ge=1, le=4096)] | Auto = "auto"
    """Clips that an actor generates at once; auto: as many as its memory holds."""
    shard_rows: PositiveInt | Auto = "auto"
    """Rows of a shard; auto: a few minutes of work."""
    attempts: PositiveInt = 3
    """Attempts of a shard that the store refuses, before it is put off to the end of the run."""
    heartbeat_s: PositiveNumber = 5.0
    """Seconds between the questions to an actor how it is getting on."""
    silent_after_s: PositiveNumber = 300.0
    """An actor that does not answer for so many seconds is replaced."""
    start_timeout_s: PositiveNumber = 1800.0
    """Seconds for an actor's process to fetch and load the model."""
    store_patience_s: PositiveNumber = 3600.0
    """How many seconds the run waits for a store that does not answer."""
    price_per_hour: Annotated[Number, Field(ge=0)] | None = None
    """What an actor costs in an hour, with its GPU or its share of one, in any currency; null: costs are not said."""
    max_cost: PositiveNumber | None = None
    """Stop at the next commit when the run has cost so much, with earlier commands that worked on it."""
    max_hours: PositiveNumber | None = None
    """Stop at the next commit when this command's actors have been at work for so many hours."""

    @model_validator(mode="after")
    def _check_price(self) -> "ClusterSettings":
        if self.max_cost is not None and not self.price_per_hour:
            raise ValueError("has max_cost and no price; say price_per_hour, which an actor costs in an hour")
        return self

    @model_validator(mode="after")
    def _check_one_process(self) -> "ClusterSettings":
        most = self.actors.max if isinstance(self.actors, ActorRange) else self.actors
        if self.address == NO_CLUSTER and most not in ("auto", 1):
            raise ValueError(
                f"asks for {most} actors with address none, which is one process with one actor; leave out actors, or "
                "set address to local"
            )
        return self

    def resolve_actors(self, auto: int) -> tuple[int, int]:
        """Return the fewest and the most actors of the job, where `auto` stands for so many."""
        if isinstance(self.actors, ActorRange):
            return self.actors.min, self.actors.max
        count = auto if self.actors == "auto" else self.actors
        return count, count


class MetricsSettings(Section):
    """Where a run's numbers go in Prometheus' text format; to Ray's own metrics they go in any case."""

    file: str | None = None
    """A local file that is written every few seconds, such as one for the textfile collector of node_exporter."""
    port: Annotated[Whole, Field(ge=1, le=65_535)] | None = None
    """A port of the driver's machine that serves `/metrics` while the run lasts."""
    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    """The address that the port is bound to; another than 127.0.0.1 lets others read it."""

    @field_validator("file")
    @classmethod
    def _check_file(cls, file: str | None) -> str | None:
        return None if file is None else make_absolute(file)
