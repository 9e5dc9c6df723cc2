"""Which clips go through the network together, and when. Pure: the clock is passed in.

A batch leaves when it is full, or when the clip that has waited longest has waited `max_delay`.
Clients take turns for places in it. Clips whose deadline has passed are never run.
"""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Generic, TypeVar

from stdeploy.serve.fair import FairQueue

Item = TypeVar("Item")


@dataclasses.dataclass(frozen=True, eq=False)
class _Queued(Generic[Item]):
    item: Item
    since: float


class Batching(Generic[Item]):
    """Clips that wait for the network.

    Args:
        max_batch: clips that go together at most.
        max_delay: seconds that a clip waits for company at most.
    """

    def __init__(self, max_batch: int, max_delay: float) -> None:
        self._max_batch = max_batch
        self._max_delay = max_delay
        self._queue: FairQueue[_Queued[Item]] = FairQueue()
        self._entries: dict[int, _Queued[Item]] = {}  # by identity of the item, oldest first

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, item: Item, *, client: str, deadline: float, now: float) -> None:
        """Let a clip wait.

        Args:
            item: anything; told apart by identity.
            client: whose it is.
            deadline: when its answer is of no use any more.
            now: seconds of the clock that the deadline is of.
        """
        entry = _Queued(item, now)
        self._entries[id(item)] = entry
        self._queue.add(entry, client=client, deadline=deadline)

    def remove(self, unwanted: Callable[[Item], bool]) -> list[Item]:
        """Give clips up."""
        return [self._forget(entry) for entry in self._queue.remove(lambda e: unwanted(e.item))]

    def due(self, now: float) -> float | None:
        """Seconds until a batch should leave: 0 where it should now, None where nothing waits."""
        if not self._entries:
            return None
        if len(self._queue) >= self._max_batch:
            return 0.0
        oldest = next(iter(self._entries.values()))
        return max(0.0, oldest.since + self._max_delay - now)

    def expire(self, now: float) -> list[Item]:
        """Take out the clips whose deadline has passed."""
        return [self._forget(entry) for entry in self._queue.expire(now)]

    def take(self) -> list[Item]:
        """The next batch, at most `max_batch` clips; empty where nothing waits."""
        taken = iter(self._queue.take, None)
        return [self._forget(entry) for entry in itertools.islice(taken, self._max_batch) if entry]

    def _forget(self, entry: _Queued[Item]) -> Item:
        del self._entries[id(entry.item)]
        return entry.item
