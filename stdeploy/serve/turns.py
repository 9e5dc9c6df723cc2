"""Slots of work that clients take in turns, for coroutines."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from stdeploy.serve.fair import FairQueue
from stdeploy.serve.job import Job


class Turns:
    """A number of slots; who finds none free waits for its client's turn.

    Args:
        slots: jobs that are worked on at once.
    """

    def __init__(self, slots: int) -> None:
        self._free = slots
        self._queue: FairQueue[asyncio.Future[None]] = FairQueue()

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
            self._give()

    async def _take(self, job: Job) -> None:
        if self._free:
            self._free -= 1
            return
        mine = asyncio.get_running_loop().create_future()
        self._queue.add(mine, client=job.client, deadline=job.deadline)
        try:
            await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled():
                self._give()  # the slot came in the same moment
            self._queue.remove(lambda future: future is mine)
            raise

    def _give(self) -> None:
        while (following := self._queue.take()) is not None:
            if not following.done():
                following.set_result(None)
                return
        self._free += 1
