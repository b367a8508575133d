"""The shards that no actor holds: untried ones, those to be tried again, and those that were given up."""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import chain, islice

from actors.fault_limits import FaultLimits
from actors.messages import ShardAttempt
from actors.shard_history import Death, ShardHistory

_GOLDEN_RATIO = 0.618034  # successive multiples of it, modulo 1, spread evenly


class ShardQueue:
    """Gives out attempts at shards, and takes back those that did not succeed.

    `count_rows(shard)` returns how many rows a shard has.
    """

    def __init__(self, shards: Iterable[int], count_rows: Callable[[int], int], limits: FaultLimits):
        self.given_up: dict[int, str] = {}  # shard -> reason
        self.given_up_in_a_row = 0
        self.histories: dict[int, ShardHistory] = {}
        self.is_last_round = False
        self.may_take: Callable[[int], bool] = lambda shard: True  # False while another driver makes the shard
        self.count_rows = count_rows
        self._limits = limits
        self._untried: deque[int] = deque(shards)
        self._retries: list[int] = []  # shards tried before, in the order of their next attempt
        self._good_row: tuple[int, int] | None = None  # (shard, row) that an actor has made
        self._controls = 0

    def __len__(self) -> int:
        return len(self._untried) + len(self._retries)

    @property
    def retried_shards(self) -> tuple[int, ...]:
        """The shards that are to be tried again."""
        return tuple(self._retries)

    def count_takeable(self, most: int) -> int:
        """Return how many shards an actor may be given, now or after a delay; of untried ones `most` are counted."""
        return len(self._retries) + len(list(islice(self.iterate_untried(self.may_take), most)))

    def count_attempt_rows(self, attempt: ShardAttempt) -> int:
        """Return how many rows an attempt makes."""
        first, end = attempt.row_range or (0, self.count_rows(attempt.shard))
        return end - first

    def iterate_untried(self, is_wanted: Callable[[int], bool]) -> Iterator[int]:
        """Iterate over the untried shards that are wanted, in order."""
        return filter(is_wanted, self._untried)

    def drop(self, committed: Collection[int]) -> list[int]:
        """Remove shards that another driver has committed, and return them."""
        dropped = [shard for shard in chain(self._untried, self._retries) if shard in committed] if committed else []
        if dropped:
            self._untried = deque(shard for shard in self._untried if shard not in committed)
            self._retries = [shard for shard in self._retries if shard not in committed]
        return dropped

    # ------------------------------------------------------------ giving out

    def is_control_needed(self, now: float) -> bool:
        """Whether a shard is due that only an actor may have that has made a clip."""
        return any(
            self.histories[shard].needs_control and self.histories[shard].retry_at <= now for shard in self._retries
        )

    def take_retry(self, now: float, with_suspects: bool, node: str, two_nodes: bool) -> ShardAttempt | None:
        """Return the attempt that is due next at a shard tried before, for an actor on `node`, or None."""
        for index, shard in enumerate(self._retries):
            history = self.histories[shard]
            if history.retry_at > now or (history.suspected and not with_suspects):
                continue
            if two_nodes and history.next_node_to_avoid(two_nodes) == node:
                continue
            del self._retries[index]
            return history.next_attempt(shard, two_nodes)
        return None

    def take_untried(self) -> ShardAttempt | None:
        """Return the first attempt at the next untried shard; None if there is none that may be taken."""
        shard = next(self.iterate_untried(self.may_take), None)
        if shard is None:
            return None
        self._untried.remove(shard)
        return ShardAttempt(shard)

    def make_control(self) -> ShardAttempt | None:
        """Return a trial of one row that shows whether a machine can make clips; None if there is no such row.

        The row is one that was made before. As long as there is none it is any row that is not suspected, another one
        each time. Where so few rows are left that all of them may be at fault, it is one with a harmless prompt.
        """
        shards = list(islice(chain(self._retries, self._untried), self._limits.deaths + 1))
        if self._good_row is None and shards and sum(map(self.count_rows, shards)) <= self._limits.deaths:
            return ShardAttempt(shards[0], 0, (0, 1), harmless=True)
        row = self._good_row or next(self._unsuspected_rows(), None)
        return None if row is None else ShardAttempt(row[0], 0, (row[1], row[1] + 1))

    def _unsuspected_rows(self) -> Iterator[tuple[int, int]]:
        shards = [*self._untried, *self._retries]
        clean = [shard for shard in shards if shard not in self.histories or not self.histories[shard].crashes]
        for _ in range(64):
            self._controls += 1
            place = self._controls * _GOLDEN_RATIO % 1
            candidates = clean or shards
            if not candidates:
                return
            shard = candidates[int(place * len(candidates))]
            row = int(place * 7 % 1 * self.count_rows(shard))
            history = self.histories.get(shard)
            if history is None or row not in history.lonely_deaths:
                yield shard, row

    # ------------------------------------------------------------ taking back

    def history_of(self, shard: int) -> ShardHistory:
        """Return the shard's history; it begins with the first attempt, which needs none."""
        return self.histories.setdefault(shard, ShardHistory(attempts=1))

    def on_trial_made(self, attempt: ShardAttempt, made: int, is_control: bool) -> None:
        """Take back a shard after a trial that its actor survived."""
        assert attempt.row_range is not None
        if attempt.harmless:
            return  # it tells nothing of the row
        first, end = attempt.row_range
        if made == end - first:
            self._good_row = (attempt.shard, first)
        elif self._good_row == (attempt.shard, first):
            self._good_row = None
        if not is_control:
            self.history_of(attempt.shard).acquit(attempt.row_range)
            self._retries.insert(0, attempt.shard)  # this range is harmless; the next one is tried

    def on_committed(self, attempt: ShardAttempt, made: int) -> None:
        """Forget a shard that is committed. If all its rows were made, one of them is a good control from now on."""
        if made == self.count_rows(attempt.shard) and self._good_row is None:
            self._good_row = (attempt.shard, 0)
        self.given_up_in_a_row = 0
        self.histories.pop(attempt.shard, None)

    def repeat_lost(self, attempt: ShardAttempt, reason: str, is_free: bool) -> None:
        """Take back a shard whose actor is gone by no fault of the shard; it comes first. `is_free`: it may recur."""
        history = self.history_of(attempt.shard)
        history.repeat(attempt)
        if not is_free:
            history.losses += 1
            if history.losses >= self._limits.losses:
                self.give_up(attempt.shard, f"{history.losses} actors were lost while they made it; the last: {reason}")
                return
        self._retries.insert(0, attempt.shard)

    def repeat_failed(self, attempt: ShardAttempt, reason: str, now: float) -> None:
        """Take back a shard after a fault of the store that its actor survived."""
        history = self.history_of(attempt.shard)
        history.storage_errors += 1
        history.repeat(attempt)
        if history.storage_errors >= self._limits.storage_errors:
            self.give_up(attempt.shard, reason)
            return
        history.retry_at = now + self._limits.backoff_after(history.storage_errors)
        self._retries.append(attempt.shard)

    def repeat_crashed(self, attempt: ShardAttempt, death: Death) -> None:
        """Take back a shard that has ended its actor: it is tried once more as a whole, and then by halves."""
        history = self.history_of(attempt.shard)
        history.crashes += 1
        history.needs_control = not death.after_clip
        if attempt.row_range is not None:
            history.record_death(attempt.row_range, death)
        elif history.crashes >= self._limits.crashes:
            if history.bisections >= self._limits.bisections:
                reason = f"it ends its process, but none of its rows does so alone ({death.reason})"
                self.give_up(attempt.shard, reason)
                return
            history.bisections += 1
            history.bisect((0, self.count_rows(attempt.shard)))
        self._retries.append(attempt.shard)

    def give_up(self, shard: int, reason: str) -> None:
        """Set a shard aside until the last round."""
        self.given_up[shard] = reason
        self.given_up_in_a_row += 1
        del self.histories[shard]

    def begin_last_round(self) -> None:
        """Try every shard once more that was given up: what was at fault may be over."""
        self.is_last_round = True
        self.given_up_in_a_row = 0
        for shard in self.given_up:
            self.histories[shard] = ShardHistory(
                attempts=1000,  # names of attempts must not occur twice
                storage_errors=self._limits.storage_errors - 1,
                losses=self._limits.losses - 1,
                crashes=1,
                bisections=self._limits.bisections,
            )
            self._retries.append(shard)
        self.given_up = {}
