"""One request's claim on the server."""

import threading
import time

from stdeploy.serve.admission import Place


class Job:
    """Who asks, until when, and whether the answer is still wanted. Threads may share one.

    Args:
        place: that it has been let in to.
        deadline: when the answer is of no use any more, of `time.monotonic`.

    Attributes:
        client: whose turn it takes in queues.
        left_network: when its last clip left the network, of the same clock.
        waited: seconds that it spent in queues so far: for its "turn", a "decoder", the "network".
        worked: seconds in which it was worked on so far, by "decode" and "infer"; these go on side
            by side.
    """

    def __init__(self, place: Place, deadline: float) -> None:
        self.place = place
        self.client = place.client
        self.deadline = deadline
        self.waited = {"turn": 0.0, "decoder": 0.0, "network": 0.0}
        self.worked = {"decode": 0.0, "infer": 0.0}
        self.left_network = 0.0
        self._given_up = threading.Event()

    def start(self) -> None:
        """It is worked on from now on, and keeps its place."""
        self.place.started = True

    def give_up(self) -> None:
        """Nobody wants the answer any more; what works on it ends soon."""
        self.left_network = 0.0
        self._given_up.set()

    def unwanted(self) -> bool:
        """Whether to stop working on it."""
        return self._given_up.is_set() or time.monotonic() >= self.deadline
