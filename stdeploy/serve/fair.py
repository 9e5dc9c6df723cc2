"""Who is next: one queue for many clients, none of whom can crowd the others out. Pure."""

import dataclasses
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")


@dataclasses.dataclass(frozen=True)
class _Waiting(Generic[Item]):
    item: Item
    deadline: float


class FairQueue(Generic[Item]):
    """Clients take turns; the items of one client keep their order.

    With a1, a2, a3 of client A, then b1 of client B, `take` gives a1, b1, a2, a3. Whoever was
    served last comes behind those who came meanwhile.
    """

    def __init__(self) -> None:
        self._clients: dict[str, deque[_Waiting[Item]]] = {}  # in the order of their turns
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
        self._clients.setdefault(client, deque()).append(_Waiting(item, deadline))
        self._count += 1

    def take(self, held: Callable[[str], int] = lambda _client: 0) -> Item | None:
        """The next item; None where none waits.

        Args:
            held: what a client has already of that which is waited for; who has least is next.
        """
        if not self._clients:
            return None
        if self._served is not None:
            self.to_the_end(self._served)
        self._served = client = min(self._clients, key=held)
        waiting = self._clients[client]
        taken = waiting.popleft()
        self._count -= 1
        if not waiting:
            del self._clients[client]
        return taken.item

    def to_the_end(self, client: str) -> None:
        """Let a client wait behind all that wait now."""
        if client in self._clients:
            self._clients[client] = self._clients.pop(client)

    def remove(self, unwanted: Callable[[Item], bool]) -> list[Item]:
        """Take items out of their turn."""
        return self._drop(lambda waiting: unwanted(waiting.item))

    def expire(self, now: float) -> list[Item]:
        """Take out the items whose deadline has passed."""
        return self._drop(lambda waiting: waiting.deadline <= now)

    def _drop(self, unwanted: Callable[[_Waiting[Item]], bool]) -> list[Item]:
        dropped = []
        for client, waiting in list(self._clients.items()):
            found = [each for each in waiting if unwanted(each)]
            if not found:
                continue
            dropped += [each.item for each in found]
            kept = deque(each for each in waiting if not unwanted(each))
            # In place: whose turn it is does not change.
            if kept:
                self._clients[client] = kept
            else:
                del self._clients[client]
        self._count -= len(dropped)
        return dropped
