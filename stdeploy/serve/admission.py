"""Who may come in: a bounded number of requests, shared among the clients that ask. Pure."""

import dataclasses
import math
from collections import OrderedDict
from typing import Literal

_REMEMBERED_SECONDS = 10.0  # that a client counts as asking after its last request
_MOST_CLIENTS = 4096
_MOST_WAIT_SECONDS = 60
_WEIGHT = 0.1  # of the newest interval between answers in their running mean


class TurnedAwayError(Exception):
    """A request that may not come in now.

    Attributes:
        reason: "full", or "over_share" where the client itself takes more than its share.
        retry_after_seconds: when to ask again, at least 1.
    """

    def __init__(self, reason: Literal["full", "over_share"], retry_after_seconds: int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after_seconds = retry_after_seconds


@dataclasses.dataclass
class _Client:
    inside: int = 0
    asked: float = -math.inf


class Admission:
    """Counts requests from the last byte of their body to their answer.

    While one client asks, it may take all the room. As soon as another asks, each may hold its
    part of it; who holds more is turned away with "over_share" until it holds less, so that room
    for the others appears without throwing out what has been accepted.

    Args:
        capacity: requests inside at most.
        slots: requests that are worked on at once; more have to wait.
        patience: seconds that a request may wait; where answers come so slowly that one would
            wait longer, it is turned away at once. Infinite to let all in that fit.
    """

    def __init__(self, capacity: int, *, slots: int = 1, patience: float = math.inf) -> None:
        self.capacity = capacity
        self._slots = slots
        self._patience = patience
        self._clients: OrderedDict[str, _Client] = OrderedDict()
        self._inside = 0
        self._interval = 0.0
        self._answered: float | None = None

    @property
    def inside(self) -> int:
        """Requests that are being worked on or wait."""
        return self._inside

    def enter(self, client: str, now: float) -> None:
        """Let a request in.

        Args:
            client: who asks.
            now: seconds of a steady clock.

        Raises:
            TurnedAwayError: there is no room for it.
        """
        asking = self._clients.setdefault(client, _Client())
        asking.asked = now
        self._clients.move_to_end(client)
        self._forget(now)
        share = math.ceil(self.capacity / len(self._clients))
        if len(self._clients) > 1 and asking.inside >= share:
            raise TurnedAwayError("over_share", self._retry_after(asking.inside - share + 1))
        expected = max(0, self._inside - self._slots) * self._interval
        if self._inside >= self.capacity or expected > self._patience:
            raise TurnedAwayError("full", self._retry_after(self._inside / 2))
        asking.inside += 1
        self._inside += 1

    def leave(self, client: str, now: float) -> None:
        """A request has been answered, or given up."""
        self._clients[client].inside -= 1
        self._inside -= 1
        # Where none has to wait, answers come as seldom as questions, which is not slowness.
        waited_for = self._inside >= self._slots
        if self._answered is not None and waited_for:
            self._interval += _WEIGHT * (now - self._answered - self._interval)
        self._answered = now if waited_for else None
        if not self._inside:
            self._interval = 0.0

    def _retry_after(self, requests: float) -> int:
        """Seconds in which so many requests are answered."""
        return max(1, min(_MOST_WAIT_SECONDS, math.ceil(requests * self._interval)))

    def _forget(self, now: float) -> None:
        """Clients that have nothing inside and have not asked for a while."""
        for name, client in list(self._clients.items()):
            if now - client.asked < _REMEMBERED_SECONDS and len(self._clients) <= _MOST_CLIENTS:
                return  # they are in the order in which they asked
            if not client.inside and client.asked < now:
                del self._clients[name]
