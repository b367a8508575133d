"""When actors are asked for heartbeats, and which of them are out of reach."""

_FIRST_INTERVAL_S = 0.5  # between heartbeats of an actor that is not known to have made a clip
_UNREACHABLE_S = 5.0  # until an actor that is out of reach counts as lost; before, Ray may find out why it ended


class HeartbeatSchedule:
    """The next question to each actor. Times are of the run's clock; `interval_s` lies between two questions."""

    def __init__(self, interval_s: float):
        self._interval_s = interval_s
        self._due: dict[int, float] = {}
        self._unreachable_until: dict[int, float] = {}

    def ask_at(self, actor: int, time: float) -> None:
        """Ask the actor then."""
        self._due[actor] = time

    def take_due(self, now: float) -> list[int]:
        """Return the actors that are to be asked now; none of them is asked again before it has answered."""
        due = [actor for actor, time in self._due.items() if now >= time]
        self._due.update(dict.fromkeys(due, float("inf")))
        return due

    def on_heartbeat(self, actor: int, now: float, is_first: bool) -> None:
        """Plan the next question. `is_first`: it has made no clip yet, and a death counts otherwise once it has."""
        self._due[actor] = now + (min(self._interval_s, _FIRST_INTERVAL_S) if is_first else self._interval_s)

    def note_unreachable(self, actor: int, now: float) -> None:
        """Ask an actor that is out of reach again: if its process has ended, Ray will soon know, and why."""
        self._unreachable_until.setdefault(actor, now + _UNREACHABLE_S)
        self._due[actor] = now + 1.0

    def is_unreachable(self, actor: int) -> bool:
        """Whether the actor was out of reach when it was last asked."""
        return actor in self._unreachable_until

    def list_unreachable(self, now: float) -> list[int]:
        """Return the actors that were out of reach for so long that they count as lost."""
        return [actor for actor, until in self._unreachable_until.items() if now >= until]

    def forget(self, actor: int) -> None:
        """Drop an actor that has ended."""
        self._due.pop(actor, None)
        self._unreachable_until.pop(actor, None)
