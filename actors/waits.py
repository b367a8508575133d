"""Says what a run waits for, once that lasts."""

import re
from collections.abc import Mapping

from actors.actor_replies import NodeWatch
from actors.actor_state import ActorState
from actors.dispatcher import Dispatcher
from musicgen.store_waits import find_longest_wait

_SHOWN_AFTER_S = 30.0
_TIME_OF_DAY = re.compile(r"\d\d:\d\d:\d\d")


def describe_waits(dispatcher: Dispatcher, watch: NodeWatch, now: float, shards_elsewhere: int) -> tuple[str, ...]:
    """Return a phrase for each thing that has held up the run for half a minute or more.

    `now` is the time of the run's clock; `shards_elsewhere` counts the shards that another driver is making.
    """
    actors = dispatcher.actors
    phrases = [
        _describe_room(actors, now),
        *_describe_machines(dispatcher, watch.hosts),
        _describe_silence(actors, now),
        *_describe_store(actors),
    ]
    if shards_elsewhere and not dispatcher.held_shards:
        last = "the last shard" if shards_elsewhere == 1 else f"the last {shards_elsewhere} shards"
        phrases.append(f"waiting for another driver of this run, which makes {last}")
    if watch.head_lost_s:
        phrases.append(f"the head of the Ray cluster has not answered for {watch.head_lost_s:.0f} s")
    return tuple(phrase for phrase in phrases if phrase)


def _describe_room(actors: Mapping[int, ActorState], now: float) -> str:
    pending = [actor for actor in actors.values() if actor.started_at is None]
    if not any(now - actor.asked_at > _SHOWN_AFTER_S for actor in pending):
        return ""
    return f"{_count_actors(len(actors))} wanted, room for {len(actors) - len(pending)}"


def _describe_machines(dispatcher: Dispatcher, hosts: Mapping[str, str]) -> list[str]:
    machines = dispatcher.machines
    phrases = []
    if machines.deaths:
        phrases.append(f"{_count_actors(machines.deaths)} died without a clip; the last: {machines.last_reason}")
    elif machines.failed_starts:
        phrases.append(f"{_count_actors(machines.failed_starts)} failed to start; the last: {machines.last_reason}")
    phrases += [f"no actor is started on {hosts.get(node, node)}: {why}" for node, why in machines.set_aside.items()]
    return phrases


def _describe_silence(actors: Mapping[int, ActorState], now: float) -> str:
    silences = [now - actor.heartbeat_asked_at for actor in actors.values() if actor.heartbeat_asked_at is not None]
    longest = max(silences, default=0.0)
    if longest <= _SHOWN_AFTER_S:
        return ""
    count = sum(silence > _SHOWN_AFTER_S for silence in silences)
    return f"{_count_actors(count)} did not answer for {longest:.0f} s"


def _describe_store(actors: Mapping[int, ActorState]) -> list[str]:
    """Return what actors and driver wait for; of phrases that differ in the time alone, the earliest."""
    phrases = [actor.waiting_for for actor in actors.values() if actor.waiting_for]
    wait = find_longest_wait(_SHOWN_AFTER_S)
    phrases += [str(wait)] if wait is not None else []
    earliest: dict[str, str] = {}
    for phrase in sorted(phrases):
        earliest.setdefault(_TIME_OF_DAY.sub("", phrase), phrase)
    return list(earliest.values())


def _count_actors(count: int) -> str:
    return "1 actor" if count == 1 else f"{count} actors"
