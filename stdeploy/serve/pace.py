"""How many seconds a request keeps the server busy, from what earlier ones took. Pure."""

import collections
import math
import threading

_WEIGHT = 0.1  # of the newest measurement in a running mean
_MOST_CLIENTS = 1024


class Pace:
    """Running means of what was measured; threads may share one.

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
