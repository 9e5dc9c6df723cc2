"""Work done by other threads, given back in order, and never far ahead of who takes it."""

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ordered_map(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    threads: int,
    ahead: int,
    give_up: Callable[[], None] = lambda: None,
) -> Generator[tuple[Item, Result]]:
    """Call `work` on items, several at a time.

    Args:
        work: what it raises is raised here, when the turn of its item comes.
        items: taken one by one, as they are needed.
        threads: that work at once.
        ahead: items at most that are being worked on or done, beyond the one that is given back.
            It bounds the memory.
        give_up: is called when the results are not wanted any more, so that what is being worked
            on ends soon.

    Yields:
        Each item with its result, in the order of the items.
    """
    remaining = iter(items)
    under_way: deque[tuple[Item, Future[Result]]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
    try:
        while True:
            while len(under_way) <= ahead:
                try:
                    item = next(remaining)
                except StopIteration:
                    break
                under_way.append((item, pool.submit(work, item)))
            if not under_way:
                return
            item, future = under_way.popleft()
            yield item, future.result()
    except BaseException:
        give_up()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def prefetch(items: Iterator[Item], *, ahead: int) -> Generator[Item]:
    """Let another thread fetch items while those before are worked on.

    Args:
        items: closed, if it can be, when no more are wanted; what it raises is raised here.
        ahead: items at most that wait to be taken.

    Yields:
        The items, in order.
    """
    ready: queue.Queue[tuple[Item] | BaseException | None] = queue.Queue(ahead)
    unwanted = threading.Event()

    def fetch() -> None:
        try:
            for item in items:
                ready.put((item,))
                if unwanted.is_set():
                    return
            ready.put(None)
        except BaseException as error:  # it belongs to the thread that takes the items
            ready.put(error)
        finally:
            if isinstance(items, Generator):
                items.close()

    thread = threading.Thread(target=fetch, name="prefetch", daemon=True)
    thread.start()
    try:
        while (found := ready.get()) is not None:
            if isinstance(found, BaseException):
                raise found
            yield found[0]
    finally:
        unwanted.set()
        while thread.is_alive():  # it may wait for room
            try:
                ready.get(timeout=0.01)
            except queue.Empty:
                continue
        thread.join()
