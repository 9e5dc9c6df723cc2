"""What is worked on next: a fair queue of clients, slots of work, batches of clips.

`FairQueue` and `ClipBatcher` are pure: the clock is passed in. `ClientSlots` is for coroutines.
"""

import asyncio
import collections
import contextlib
import dataclasses
import itertools
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Generic, TypeVar

from stdeploy.serve.admission import Place

Item = TypeVar("Item")


class Job:
    """Who asks, until when, and whether the answer is still wanted. Threads may share one.

    Args:
        place: that it has been let in to.
        deadline: when the answer is of no use any more, of `time.monotonic`.

    Attributes:
        client: whose turn it takes in queues.
        left_network: when its last clip left the network, of the same clock.
        waited: seconds that it spent in queues so far: for a "slot", a "decoder", the "network".
        worked: seconds in which it was worked on so far, by "decode" and "infer"; these go on side
            by side.
    """

    def __init__(self, place: Place, deadline: float) -> None:
        self.place = place
        self.client = place.client
        self.deadline = deadline
        self.waited = {"slot": 0.0, "decoder": 0.0, "network": 0.0}
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


@dataclasses.dataclass(frozen=True)
class _Queued(Generic[Item]):
    item: Item
    deadline: float


class FairQueue(Generic[Item]):
    """One queue for many clients, none of whom can crowd the others out.

    Clients take turns; the items of one client keep their order.

    With a1, a2, a3 of client A, then b1 of client B, `take` gives a1, b1, a2, a3. Whoever was
    served last comes behind those who came meanwhile.
    """

    def __init__(self) -> None:
        # In the order of their turns.
        self._clients: dict[str, collections.deque[_Queued[Item]]] = {}
        self._served: str | None = None  # last; it goes to the end when the next is taken
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, item: Item, *, client: str, deadline: float) -> None:
        """Let an item wait.

        Args:
            item: anything; told apart by identity.
            client: whose turn it takes.
            deadline: when it is of no use any more, in seconds of any clock.
        """
        self._clients.setdefault(client, collections.deque()).append(_Queued(item, deadline))
        self._count += 1

    def take(self, held: Callable[[str], int] = lambda _client: 0) -> Item | None:
        """The next item; None where none waits.

        Args:
            held: what a client has already of that which is waited for; who has least is next.
        """
        if not self._clients:
            return None
        if self._served is not None:
            self.move_to_end(self._served)
        self._served = client = min(self._clients, key=held)
        waiting = self._clients[client]
        taken = waiting.popleft()
        self._count -= 1
        if not waiting:
            del self._clients[client]
        return taken.item

    def move_to_end(self, client: str) -> None:
        """Let a client wait behind all that wait now."""
        if client in self._clients:
            self._clients[client] = self._clients.pop(client)

    def remove(self, unwanted: Callable[[Item], bool]) -> list[Item]:
        """Take items out of their turn."""
        return self._drop(lambda waiting: unwanted(waiting.item))

    def expire(self, now: float) -> list[Item]:
        """Take out the items whose deadline has passed."""
        return self._drop(lambda waiting: waiting.deadline <= now)

    def _drop(self, unwanted: Callable[[_Queued[Item]], bool]) -> list[Item]:
        dropped = []
        for client, waiting in list(self._clients.items()):
            found = [each for each in waiting if unwanted(each)]
            if not found:
                continue
            dropped += [each.item for each in found]
            kept = collections.deque(each for each in waiting if not unwanted(each))
            # In place: whose turn it is does not change.
            if kept:
                self._clients[client] = kept
            else:
                del self._clients[client]
        self._count -= len(dropped)
        return dropped


@dataclasses.dataclass(frozen=True, eq=False)
class _Waiter:
    client: str
    slot: "asyncio.Future[None]"


class ClientSlots:
    """Slots of work that clients take in turns; who finds none free waits for its client's turn.

    A slot that becomes free goes to a client that holds fewest, so that none keeps them all with
    work that takes long.

    Args:
        slots: jobs that are worked on at once.
    """

    def __init__(self, slots: int) -> None:
        self._free = slots
        self._held: collections.Counter[str] = collections.Counter()
        self._queue: FairQueue[_Waiter] = FairQueue()

    @property
    def waiting(self) -> int:
        """Jobs that wait for a slot."""
        return len(self._queue)

    @contextlib.asynccontextmanager
    async def hold(self, job: Job) -> AsyncIterator[None]:
        """Hold a slot. Cancelling the wait gives the place in the queue up."""
        await self._take(job)
        try:
            yield
        finally:
            self._give(job.client)

    async def _take(self, job: Job) -> None:
        if self._free:
            self._free -= 1
            self._held[job.client] += 1
            return
        mine = asyncio.get_running_loop().create_future()
        waiting = _Waiter(job.client, mine)
        self._queue.add(waiting, client=job.client, deadline=job.deadline)
        try:
            await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled():
                self._give(job.client)  # the slot came in the same moment
            self._queue.remove(lambda other: other is waiting)
            raise

    def _give(self, client: str) -> None:
        """Pass on the slot that a client had."""
        self._held[client] -= 1
        if not self._held[client]:
            del self._held[client]
        # As if its next job came now. Else a client whose jobs always wait would be first whenever
        # one of them ends, and keep its slot for good while others, fewer in slots than in all,
        # come round.
        self._queue.move_to_end(client)
        while (following := self._queue.take(self._held.__getitem__)) is not None:
            if not following.slot.done():
                self._held[following.client] += 1
                following.slot.set_result(None)
                return
        self._free += 1


@dataclasses.dataclass(frozen=True, eq=False)
class _WaitingClip(Generic[Item]):
    item: Item
    since: float


class ClipBatcher(Generic[Item]):
    """Which clips go through the network together, and when.

    A batch leaves when it is full, or when the clip that has waited longest has waited `max_delay`.
    Clients take turns for places in it. Clips whose deadline has passed are never run.

    Args:
        max_batch: clips that go together at most.
        max_delay: seconds that a clip waits for company at most.
    """

    def __init__(self, max_batch: int, max_delay: float) -> None:
        self._max_batch = max_batch
        self._max_delay = max_delay
        self._queue: FairQueue[_WaitingClip[Item]] = FairQueue()
        self._entries: dict[int, _WaitingClip[Item]] = {}  # by identity of the item, oldest first

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
        entry = _WaitingClip(item, now)
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

    def _forget(self, entry: _WaitingClip[Item]) -> Item:
        del self._entries[id(entry.item)]
        return entry.item
