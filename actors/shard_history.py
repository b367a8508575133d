"""What has happened to a shard that did not succeed at once, and what its next attempt is."""

import math
from dataclasses import dataclass, field

from actors.messages import PoisonRow, ShardAttempt
from musicgen.errors import ErrorClass


@dataclass(frozen=True, slots=True)
class Death:
    """The end of an actor that was making a shard, or a range of its rows."""

    node: str
    after_clip: bool  # the same process had made a clip before, so its machine can
    error_class: ErrorClass
    reason: str


@dataclass(slots=True)
class ShardHistory:
    """The failures of a shard, the ranges of its rows that trials have still to test, and the rows found guilty.

    A row is guilty if two actors that had made other clips ended with it alone; where the pool has actors on two nodes,
    the two ended on different ones.
    """

    attempts: int = 0
    storage_errors: int = 0
    losses: int = 0  # of its actors, by no fault of the shard
    crashes: int = 0
    bisections: int = 0
    retry_at: float = -math.inf
    untested_ranges: list[tuple[int, int]] = field(default_factory=list)  # (first, end), the next one last
    lonely_deaths: dict[int, list[Death]] = field(default_factory=dict)  # by row: of actors that had this row alone
    needs_control: bool = False  # the last death may be the machine's fault, so the next actor has to make a clip first
    poison_rows: list[PoisonRow] = field(default_factory=list)

    @property
    def suspected(self) -> bool:
        """Whether the shard is made alone in its actor, because it may end it."""
        return self.crashes > 0 or self.losses > 1

    def next_attempt(self, shard: int, two_nodes: bool) -> ShardAttempt:
        """Return the next attempt: a trial of the next untested range, or of the whole shard if none is left."""
        row_range = None
        while self.untested_ranges and row_range is None:
            row_range = self.untested_ranges.pop()
            if row_range[1] - row_range[0] == 1 and self._is_guilty(row_range[0], two_nodes):
                self._condemn(row_range[0])
                row_range = None
        attempt = ShardAttempt(shard, self.attempts, row_range, tuple(self.poison_rows))
        self.attempts += 1
        return attempt

    def next_node_to_avoid(self, two_nodes: bool) -> str | None:
        """Return the node where the next row has ended an actor, if it has to be tried on another one."""
        if not two_nodes or not self.untested_ranges:
            return None
        first, end = self.untested_ranges[-1]
        deaths = self.lonely_deaths.get(first, []) if end - first == 1 else []
        nodes = {death.node for death in deaths if death.after_clip}
        return nodes.pop() if len(nodes) == 1 else None

    def repeat(self, attempt: ShardAttempt) -> None:
        """Keep the range of a trial that was cut short, so that the next attempt tests it again."""
        if attempt.row_range is not None:
            self.untested_ranges.append(attempt.row_range)

    def record_death(self, row_range: tuple[int, int], death: Death) -> None:
        """Halve a range that has ended its process. A range of one row is tested again, until its verdict is due."""
        first, end = row_range
        if end - first > 1:
            self.bisect(row_range)
        else:
            self.lonely_deaths.setdefault(first, []).append(death)
            self.untested_ranges.append(row_range)

    def acquit(self, row_range: tuple[int, int]) -> None:
        """Forget the deaths of rows that an actor has survived now."""
        self.needs_control = False
        for row in range(*row_range):
            self.lonely_deaths.pop(row, None)

    def bisect(self, row_range: tuple[int, int]) -> None:
        """Test both halves of a range next; a single row is tested itself."""
        first, end = row_range
        middle = (first + end) // 2
        self.untested_ranges += [(middle, end), (first, middle)] if middle > first else [row_range]

    def _is_guilty(self, row: int, two_nodes: bool) -> bool:
        nodes = [death.node for death in self.lonely_deaths.get(row, []) if death.after_clip]
        return len(nodes) >= 2 and (len(set(nodes)) >= 2 or not two_nodes)

    def _condemn(self, row: int) -> None:
        deaths = self.lonely_deaths[row]
        where = "on two nodes" if len({death.node for death in deaths}) > 1 else "in two actors"
        reason = f"{deaths[-1].reason}; it did so with this row alone, {where} that had made clips"
        self.poison_rows.append(PoisonRow(row, deaths[-1].error_class, reason, attempts=self.attempts))
