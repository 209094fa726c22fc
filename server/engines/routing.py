"""Which replica takes a request: the policy, and nothing else.

A replica may take one more request while it has less than its bound: a quarter more than its share
of all that is under way, and a little (consistent hashing with bounded loads, Mirrokni et al.
2016). So whatever draws requests to one replica, it is never much busier than the others. Among
those that may:

1. with an adapter: one that holds it; else one with a free place for it. Each adapter prefers the
   replicas in an order of its own, so that adapters gather instead of being loaded everywhere;
2. with a conversation (`prompt_cache_key`, or how it begins): the replica that its key prefers,
   which has its prefix in the cache;
3. else the one with the fewest requests.

The orders are rendezvous hashing: a replica that comes or goes moves only its own share.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple, Protocol, TypeVar

BOUND_SHARE = 1.25
BOUND_SLACK = 2


class Replica(Protocol):
    @property
    def engine_id(self) -> str: ...
    @property
    def load(self) -> int:
        """Requests under way or waiting there, as far as is known."""
        ...

    def holds(self, adapter: str) -> bool: ...
    @property
    def has_free_place(self) -> bool:
        """Whether one more adapter evicts none."""
        ...


class Reason(StrEnum):
    ONLY = "only"
    """There was no choice."""
    ADAPTER = "adapter"
    """It holds the request's adapter."""
    ADAPTER_HOME = "adapter_home"
    """None that may take the request holds the adapter; it is loaded there."""
    PREFIX = "prefix"
    """The conversation's own replica."""
    SPILL = "spill"
    """The conversation's own replica, or all that hold the adapter, had no room."""
    LOAD = "load"
    """The one with the fewest requests."""


R = TypeVar("R", bound=Replica)


class Choice(NamedTuple):
    at: int
    """Its index."""
    reason: Reason


def choose(
    replicas: Sequence[Replica], adapter: str | None = None, conversation: str | None = None
) -> Choice:
    """Of at least one replica. The same arguments give the same choice."""
    if len(replicas) == 1:
        return Choice(0, Reason.ONLY)
    loads = [replica.load for replica in replicas]
    bound = BOUND_SHARE * (sum(loads) + 1) / len(loads) + BOUND_SLACK
    room = [index for index, load in enumerate(loads) if load < bound]
    if adapter is not None:
        return _for_adapter(replicas, room, adapter, conversation)
    if conversation is not None:
        own = _favourite(conversation, replicas, range(len(replicas)))
        if own in room:
            return Choice(own, Reason.PREFIX)
        return Choice(_favourite(conversation, replicas, room), Reason.SPILL)
    return Choice(min(room, key=loads.__getitem__), Reason.LOAD)


def _for_adapter(
    replicas: Sequence[Replica], room: Sequence[int], adapter: str, conversation: str | None
) -> Choice:
    holding = [index for index, replica in enumerate(replicas) if replica.holds(adapter)]
    if holding and (first := _favourite(adapter, replicas, holding)) in room:
        return Choice(first, Reason.ADAPTER)
    if others := [index for index in holding if index in room]:
        return Choice(_favourite(conversation or adapter, replicas, others), Reason.ADAPTER)
    free = [index for index in room if replicas[index].has_free_place]
    home = _favourite(adapter, replicas, free or room)
    return Choice(home, Reason.SPILL if holding else Reason.ADAPTER_HOME)


def _favourite(key: str, replicas: Sequence[Replica], among: Sequence[int]) -> int:
    return max(among, key=lambda index: _weight(key, replicas[index].engine_id))


def _weight(key: str, engine_id: str) -> bytes:
    return hashlib.blake2b(f"{key}\0{engine_id}".encode(), digest_size=8).digest()
