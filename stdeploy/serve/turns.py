"""Slots of work that clients take in turns, for coroutines."""

import asyncio
import collections
import contextlib
import dataclasses
from collections.abc import AsyncIterator

from stdeploy.serve.fair import FairQueue
from stdeploy.serve.job import Job


@dataclasses.dataclass(frozen=True, eq=False)
class _Waiting:
    client: str
    slot: "asyncio.Future[None]"


class Turns:
    """A number of slots; who finds none free waits for its client's turn.

    A slot that becomes free goes to a client that holds fewest, so that none keeps them all with
    work that takes long.

    Args:
        slots: jobs that are worked on at once.
    """

    def __init__(self, slots: int) -> None:
        self._free = slots
        self._held: collections.Counter[str] = collections.Counter()
        self._queue: FairQueue[_Waiting] = FairQueue()

    @property
    def waiting(self) -> int:
        """Jobs that wait for a slot."""
        return len(self._queue)

    @contextlib.asynccontextmanager
    async def turn(self, job: Job) -> AsyncIterator[None]:
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
        waiting = _Waiting(job.client, mine)
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
        self._queue.to_the_end(client)
        while (following := self._queue.take(self._held.__getitem__)) is not None:
            if not following.slot.done():
                self._held[following.client] += 1
                following.slot.set_result(None)
                return
        self._free += 1
