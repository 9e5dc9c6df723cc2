"""Who may come in: room for so many requests and so much work, shared by clients. Pure."""

import dataclasses
import ipaddress
import math
from collections.abc import Callable, Iterator
from typing import Literal

_MOST_WAIT_SECONDS = 60
_MARGIN = 0.9  # of the time that is allowed; what work takes is an estimate
_IPV6_CLIENT_BITS = 64  # what a provider gives to one household or host at least

Reason = Literal["full", "over_share"]


class TurnedAwayError(Exception):
    """A request that may not come in, or may not stay.

    Attributes:
        reason: "full", or "over_share" where the client itself has more inside than others.
        retry_after_seconds: when to ask again, at least 1.
    """

    def __init__(self, reason: Reason, retry_after_seconds: int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after_seconds = retry_after_seconds


@dataclasses.dataclass(eq=False)
class Place:
    """Of one request, from the last byte of its body to its answer.

    Attributes:
        client: whose it is.
        seconds: that the server is expected to work on it; infinite where nobody can tell.
        started: it is being worked on, so it is too late to take its place back.
        taken_back: why it has to go; None where it may stay.
        on_taken_back: called when that happens.
    """

    client: str
    seconds: float = 0.0
    started: bool = False
    taken_back: TurnedAwayError | None = None
    on_taken_back: Callable[[], None] = lambda: None


class _Requests:
    """Requests inside, of one client or of all."""

    def __init__(self) -> None:
        self.places: dict[Place, None] = {}  # the newest last
        self.seconds = 0.0  # of the work whose length is known
        self.endless = 0  # requests of whose work it is not

    def add(self, place: Place) -> None:
        self.places[place] = None
        self._count(place, 1)

    def remove(self, place: Place) -> None:
        del self.places[place]
        self._count(place, -1)
        if not self.places:
            self.seconds = 0.0  # not what rounding has left

    @property
    def newest(self) -> Place | None:
        """The newest place that can be taken back."""
        return next((place for place in reversed(self.places) if not place.started), None)

    def _count(self, place: Place, sign: int) -> None:
        if math.isinf(place.seconds):
            self.endless += sign
        else:
            self.seconds += sign * place.seconds


class Admission:
    """Counts requests from the last byte of their body to their answer, and their work.

    Clients take turns in every queue. So a client waits for its own requests, and for as much
    work of each other client as it has itself, not for all that is inside; a request is let in
    where it can be answered in time by that reckoning, if the others go on asking. While one client
    asks, it may take all the room. Where another then finds none, room is taken back from the
    client that has most: its newest request has to go, unless it is being worked on.

    Args:
        capacity: requests inside at most.
        slots: requests that are worked on at once; so many are let in whatever they take.
        patience: seconds in which a request has to be answered; infinite to let all in that fit.
    """

    def __init__(self, capacity: int, *, slots: int = 1, patience: float = math.inf) -> None:
        self.capacity = capacity
        self._slots = slots
        self._patience = _MARGIN * patience
        self._clients: dict[str, _Requests] = {}
        self._all = _Requests()

    @property
    def inside(self) -> int:
        """Requests that are being worked on or wait."""
        return len(self._all.places)

    def enter(self, client: str, seconds: float = 0.0) -> Place:
        """Let a request in.

        Args:
            client: who asks.
            seconds: see `Place`.

        Raises:
            TurnedAwayError: there is no room for it.
        """
        place = Place(client, seconds)
        self._add(place)
        taken: list[tuple[Place, TurnedAwayError]] = []
        while (victim := self._without_room(place)) is not None:
            error = self._error(victim.client)
            self._remove(victim)
            if victim is place:
                for other, _ in reversed(taken):
                    self._add(other)
                raise error
            taken.append((victim, error))
        for other, error in taken:
            other.taken_back = error
            other.on_taken_back()
        return place

    def leave(self, place: Place) -> None:
        """A request has been answered, or given up."""
        if place.taken_back is None:
            self._remove(place)

    def _add(self, place: Place) -> None:
        self._clients.setdefault(place.client, _Requests()).add(place)
        self._all.add(place)

    def _remove(self, place: Place) -> None:
        client = self._clients[place.client]
        client.remove(place)
        self._all.remove(place)
        if not client.places:
            del self._clients[place.client]

    def _without_room(self, newest: Place) -> Place | None:
        """Which request has to go now that `newest` is inside too; None where all may stay."""
        asking = self._clients[newest.client]
        if self.inside > self.capacity:
            others = [each for each in self._clients.values() if each.newest is not None]
            most = max(others, key=lambda each: (len(each.places), each is asking))
        elif self.inside <= self._slots:
            return None
        else:
            late = [
                (each.seconds, each is asking, each)
                for each, seconds in self._turns()
                if seconds > self._patience and each.newest is not None
            ]
            if not late:
                return None
            most = max(late, key=lambda found: found[:2])[2]
        return newest if most is asking else most.newest

    def _turns(self) -> Iterator[tuple[_Requests, float]]:
        """Clients, and the seconds until all their work of known length is done.

        Others take a turn for each of a client's own: whoever asks in a loop comes again.
        """
        count = len(self._clients)
        for each in self._clients.values():
            # Its own work of unknown length takes turns with the rest, too.
            yield each, (count + (each.endless > 0)) * each.seconds

    def _error(self, name: str) -> TurnedAwayError:
        client = self._clients[name]
        fewer = any(len(each.places) < len(client.places) for each in self._clients.values())
        # Half of what it has inside is answered by then.
        seconds = next(seconds for each, seconds in self._turns() if each is client) / 2
        return TurnedAwayError(
            "over_share" if fewer else "full",
            max(1, min(_MOST_WAIT_SECONDS, math.ceil(seconds))),
        )


def client_name(address: str) -> str:
    """Who counts as one client: an IPv4 address, or the network of an IPv6 address.

    Whoever has one IPv6 address has the 2^64 of its network.

    Args:
        address: of the other side; anything else stands for itself.
    """
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((int(found), _IPV6_CLIENT_BITS), strict=False))
