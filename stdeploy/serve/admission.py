"""Which requests are let in: so many, so much work, and addressed to this server. Pure.

`Admission` shares the capacity of the server between clients, by what `DurationEstimator` expects
a request to take. `AllowedHosts` are the names by which the server may be asked.
"""

import collections
import dataclasses
import ipaddress
import math
import re
import threading
from collections.abc import Callable, Iterator
from typing import Literal

_MOST_WAIT_SECONDS = 60
_MARGIN = 0.9  # of the time that is allowed; what work takes is an estimate
_IPV6_CLIENT_BITS = 64  # what a provider gives to one household or host at least
_WEIGHT = 0.1  # of the newest measurement in a running mean
_MOST_CLIENTS = 1024  # whose videos' decoding times are remembered
ANY_HOST = "*"
_LOOPBACK = "localhost"
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_HOST = re.compile(r"(?P<host>\[[^\]]+\]|[^:\[\]]+)(?::[0-9]{0,5})?")

Reason = Literal["full", "over_share"]


class NotAdmittedError(Exception):
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
    taken_back: NotAdmittedError | None = None
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
            NotAdmittedError: there is no room for it.
        """
        place = Place(client, seconds)
        self._add(place)
        taken: list[tuple[Place, NotAdmittedError]] = []
        while (victim := self._one_too_many(place)) is not None:
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

    def _one_too_many(self, newest: Place) -> Place | None:
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
                for each, seconds in self._expected_seconds()
                if seconds > self._patience and each.newest is not None
            ]
            if not late:
                return None
            most = max(late, key=lambda found: found[:2])[2]
        return newest if most is asking else most.newest

    def _expected_seconds(self) -> Iterator[tuple[_Requests, float]]:
        """Clients, and the seconds until all their work of known length is done.

        Others take a turn for each of a client's own: whoever asks in a loop comes again.
        """
        count = len(self._clients)
        for each in self._clients.values():
            # Its own work of unknown length takes turns with the rest, too.
            yield each, (count + (each.endless > 0)) * each.seconds

    def _error(self, name: str) -> NotAdmittedError:
        client = self._clients[name]
        fewer = any(len(each.places) < len(client.places) for each in self._clients.values())
        # Half of what it has inside is answered by then.
        seconds = next(seconds for each, seconds in self._expected_seconds() if each is client) / 2
        return NotAdmittedError(
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


class DurationEstimator:
    """How many seconds a request keeps the server busy, from what earlier ones took.

    It keeps running means of what was measured; threads may share one.

    What a clip takes in the network is the same for all. What a video takes to decode is not:
    each client is reckoned by its own videos, so that none makes others look slow.

    Args:
        clip_seconds: in the network, as measured before the first request; 0 where it was not.
        decoders: videos that are decoded at once.
    """

    def __init__(self, clip_seconds: float = 0.0, *, decoders: int = 1) -> None:
        self._clip_seconds = clip_seconds
        self._decoders = decoders
        self._video_seconds: collections.OrderedDict[str, float] = collections.OrderedDict()
        self._lock = threading.Lock()

    def ran(self, clips: int, seconds: float) -> None:
        """A batch has been through the network."""
        with self._lock:
            self._clip_seconds = _mean(self._clip_seconds or None, seconds / clips)

    def decoded(self, client: str, seconds: float) -> None:
        """A video of a client has been decoded."""
        with self._lock:
            self._video_seconds[client] = _mean(self._video_seconds.get(client), seconds)
            self._video_seconds.move_to_end(client)
            if len(self._video_seconds) > _MOST_CLIENTS:
                self._video_seconds.popitem(last=False)

    def seconds(self, client: str, clips: float) -> float:
        """How long a request keeps busy what takes longest with it: the network, or the decoders.

        Args:
            client: who asks.
            clips: that go through the network; infinite where nobody can tell.
        """
        if math.isinf(clips):
            return math.inf
        with self._lock:
            decoding = self._video_seconds.get(client, 0.0) / self._decoders
            return max(clips * self._clip_seconds, decoding)


def _mean(before: float | None, newest: float) -> float:
    return newest if before is None else before + _WEIGHT * (newest - before)


class AllowedHosts:
    """Names of this server: localhost, all addresses, and those that are given.

    A page of another site can let its own name mean an address of this network (DNS rebinding),
    and a browser then takes this server for that site, whose pages may read all answers. What
    gives it away is the name in the header `Host`. Addresses cannot be made to mean another host.

    Args:
        names: of the setting `allowed_hosts`: `videos.example.com`, `*.example.com` for all names
            below one, `*` for any.

    >>> hosts = AllowedHosts(("videos.example.com", "*.lan"))
    >>> [host in hosts for host in ("10.0.0.1:8000", "[::1]", "Videos.Example.com:80", "a.lan")]
    [True, True, True, True]
    >>> [host in hosts for host in ("evil.example", "example.com", "lan", "10.0.0.1.evil.example")]
    [False, False, False, False]
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self._any = ANY_HOST in names
        plain = [name.lower().removesuffix(".") for name in names]
        self._names = {_LOOPBACK, *plain}
        self._endings = (f".{_LOOPBACK}", *(name[1:] for name in plain if name.startswith("*.")))

    def __contains__(self, header: object) -> bool:
        """Whether the value of `Host` names this server."""
        if self._any:
            return True
        found = _HOST.fullmatch(header.lower()) if isinstance(header, str) else None
        if found is None:
            return False
        host = found["host"].removesuffix(".")
        return _is_address(host) or host in self._names or host.endswith(self._endings)


def is_host_name(text: str) -> bool:
    """Whether a word of the setting is one.

    >>> [is_host_name(word) for word in ("a.example", "*.lan", "*", "10.0.0.1")]
    [True, True, True, True]
    >>> [is_host_name(word) for word in ("http://a", "a:80", "")]
    [False, False, False]
    """
    name = text.lower().removesuffix(".").removeprefix("*.")
    return text == ANY_HOST or _is_address(name) or _NAME.fullmatch(name) is not None


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True
