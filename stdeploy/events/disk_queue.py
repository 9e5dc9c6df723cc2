"""The queues of all sinks on the disk, in one SQLite file, so that an event is in all or in none.

What is in it survives the end of the program, however that comes, and a power cut. It is one
program's: SQLite keeps the file locked.
"""

import contextlib
import errno
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from stdeploy.errors import SpecError
from stdeploy.events.sink import Message, Report

FILE = "queue.sqlite"
_DAMAGED = ("SQLITE_NOTADB", "SQLITE_CORRUPT")
_MOST_DEAD = 1000  # refused messages that are kept for each sink, to be looked at
_TABLES = """
CREATE TABLE IF NOT EXISTS messages(
    number INTEGER PRIMARY KEY AUTOINCREMENT, sink TEXT NOT NULL, id TEXT NOT NULL,
    body BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS of_sink ON messages(sink, number);
CREATE TABLE IF NOT EXISTS dead(
    number INTEGER PRIMARY KEY AUTOINCREMENT, sink TEXT NOT NULL, id TEXT NOT NULL,
    body BLOB NOT NULL, reason TEXT NOT NULL, time REAL NOT NULL);
CREATE TABLE IF NOT EXISTS running(event TEXT PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS totals(
    sink TEXT PRIMARY KEY, dropped INTEGER NOT NULL DEFAULT 0, dead INTEGER NOT NULL DEFAULT 0);
"""


class QueueError(Exception):
    """The file cannot be written or read now: the disk is full, or fails."""


class Bound(NamedTuple):
    """How much of one sink may wait."""

    messages: int
    size: int


class Addition(NamedTuple):
    """One event that is to be kept.

    Attributes:
        message: what the sinks get.
        sinks: names of those that get it.
        event: its id.
        starts: whether it is going on from now on, or has ended.
    """

    message: Message
    sinks: Sequence[str]
    event: str
    starts: bool


class Waiting(NamedTuple):
    """The oldest message of a sink."""

    number: int
    message: Message


class Totals(NamedTuple):
    """What a queue holds, and what it lost since the file was begun."""

    queued: int
    queued_bytes: int
    dropped: int
    dead: int


class DiskQueue:
    """The queues; every call is one transaction, and may come from any thread.

    A queue that is full loses its oldest messages, but for the one that is being delivered.

    Args:
        folder: where the file lies; it is made.
        bounds: of each sink, by name.
        report: is told in words when a damaged file was put aside.

    Raises:
        SpecError: the folder cannot be written to, or another program uses the file.
    """

    def __init__(self, folder: Path, bounds: Mapping[str, Bound], report: Report) -> None:
        self._path, self._bounds = folder / FILE, dict(bounds)
        self._lock = threading.Lock()
        self._held: dict[str, int] = {}
        self._report = report
        self._connection: sqlite3.Connection | None = None
        with contextlib.suppress(QueueError):  # of a full disk, which may have room later
            self._open()

    def add(self, additions: Sequence[Addition]) -> dict[str, int]:
        """Append events to the queues of sinks.

        Returns:
            How many messages made room, for each sink that lost any.

        Raises:
            QueueError: nothing of it was kept.
        """
        with self._transaction() as run:
            for message, sinks, event, starts in additions:
                for sink in sinks:
                    row = (sink, message.id, message.body)
                    run("INSERT INTO messages(sink, id, body) VALUES (?, ?, ?)", row)
                if starts:
                    run("INSERT OR REPLACE INTO running VALUES (?, ?)", (event, message.body))
                else:
                    run("DELETE FROM running WHERE event = ?", (event,))
            touched = dict.fromkeys(sink for each in additions for sink in each.sinks)
            return {sink: lost for sink in touched if (lost := self._trim(run, sink))}

    def first(self, sink: str, *, after: int = 0) -> Waiting | None:
        """The oldest message of a sink; it does not make room until the next is asked for.

        Args:
            sink: its name.
            after: number of a message that was delivered, where that could not be noted.

        Raises:
            QueueError: it cannot be read.
        """
        with self._transaction() as run:
            found = run(
                "SELECT number, id, body FROM messages WHERE sink = ? AND number > ? "
                "ORDER BY number LIMIT 1",
                (sink, after),
            )
            if not found:
                self._held.pop(sink, None)
                return None
            number, message_id, body = found[0]
            self._held[sink] = number
            return Waiting(number, Message(message_id, bytes(body)))

    def remove(self, sink: str, number: int, *, refused: str | None = None) -> None:
        """Take the messages of a sink up to a number out of its queue.

        Args:
            sink: its name.
            number: of the last of them.
            refused: why the last of them was not taken; it is kept among the dead.

        Raises:
            QueueError: they are still there.
        """
        with self._transaction() as run:
            if refused is not None:
                run(
                    "INSERT INTO dead(sink, id, body, reason, time) "
                    "SELECT sink, id, body, ?, ? FROM messages WHERE number = ?",
                    (refused, time.time(), number),
                )
                run(
                    "DELETE FROM dead WHERE sink = ? AND number <= "
                    "(SELECT number FROM dead WHERE sink = ? ORDER BY number DESC "
                    "LIMIT 1 OFFSET ?)",
                    (sink, sink, _MOST_DEAD),
                )
                _count(run, sink, "dead", 1)
            run("DELETE FROM messages WHERE sink = ? AND number <= ?", (sink, number))
            self._held.pop(sink, None)

    def running(self) -> list[bytes]:
        """Starts of events whose ends were never added: another run was killed.

        Raises:
            QueueError: it cannot be read.
        """
        with self._transaction() as run:
            return [bytes(body) for (body,) in run("SELECT body FROM running ORDER BY rowid", ())]

    def totals(self, sink: str) -> Totals:
        """What the queue of a sink holds and has lost.

        Raises:
            QueueError: it cannot be read.
        """
        with self._transaction() as run:
            ((queued, size),) = run(
                "SELECT count(*), total(length(body)) FROM messages WHERE sink = ?", (sink,)
            )
            lost = run("SELECT dropped, dead FROM totals WHERE sink = ?", (sink,)) or [(0, 0)]
            return Totals(queued, int(size), *lost[0])

    def strangers(self) -> dict[str, int]:
        """Sinks that are not among those of this run, with the messages that still wait for them.

        Raises:
            QueueError: it cannot be read.
        """
        with self._transaction() as run:
            rows = run("SELECT sink, count(*) FROM messages GROUP BY sink", ())
        return {sink: count for sink, count in rows if sink not in self._bounds}

    def close(self) -> None:
        """Close the file."""
        with self._lock, contextlib.suppress(sqlite3.Error):
            if self._connection is not None:
                self._connection.close()

    def _open(self) -> sqlite3.Connection:
        """Open the file, or begin a new one where it is damaged.

        Raises:
            SpecError: it cannot be used.
            QueueError: the disk is full, or fails.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            folder, why = str(self._path.parent), error.strerror
            if error.errno == errno.ENOSPC:
                raise QueueError(f"{folder!r}: {why}") from error
            raise SpecError(f"the folder of the queue {folder!r} cannot be made: {why}") from error
        try:
            try:
                self._connection = self._opened()
            except sqlite3.DatabaseError as error:
                if _name_of(error) not in _DAMAGED:
                    raise
                self._put_aside()
                self._connection = self._opened()
        except sqlite3.DatabaseError as error:
            raise self._unusable(error) from error
        return self._connection

    def _opened_later(self) -> sqlite3.Connection:
        """See `_open`; the program is running by now, and goes on.

        Raises:
            QueueError: it cannot be used now.
        """
        try:
            return self._open()
        except SpecError as error:
            raise QueueError(str(error)) from error

    def _put_aside(self) -> None:
        aside = self._path.with_name(f"{FILE}.damaged-{time.time_ns()}")
        self._path.replace(aside)
        for end in ("-wal", "-shm"):
            self._path.with_name(FILE + end).unlink(missing_ok=True)
        self._report(
            f"the queue {str(self._path)!r} is damaged; it is {aside.name} now, a new one begins"
        )

    def _opened(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, timeout=1.0, isolation_level=None, check_same_thread=False
        )
        try:
            # Exclusive: no second program, and no file of shared memory. Full: a power cut loses
            # nothing either; whoever adds or removes waits for the disk, and no answer for them.
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA journal_size_limit = 4194304")
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("COMMIT")
            (sound,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if sound != "ok":
                raise _damaged(sound)
            connection.executescript(_TABLES)
            # Numbers go on where a file was put aside: whoever has one asks for those after it.
            connection.execute(
                "INSERT INTO sqlite_sequence SELECT 'messages', ? "
                "WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'messages')",
                (time.time_ns(),),
            )
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _unusable(self, error: sqlite3.DatabaseError) -> Exception:
        name = _name_of(error)
        if name.startswith(("SQLITE_FULL", "SQLITE_IOERR")):
            return QueueError(f"{str(self._path)!r}: {error}")
        if name.startswith("SQLITE_BUSY"):
            why = "another program uses it; end that one, or set another [events] folder"
        else:
            why = f"{error}; may you write there?"
        return SpecError(f"the queue {str(self._path)!r} cannot be opened: {why}")

    @contextlib.contextmanager
    def _transaction(self) -> "Iterator[_Run]":
        """Commit what the block does, or nothing of it.

        Raises:
            QueueError: SQLite cannot.
        """
        with self._lock:
            connection = self._connection or self._opened_later()

            def run(statement: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
                return connection.execute(statement, values).fetchall()

            try:
                connection.execute("BEGIN IMMEDIATE")
                try:
                    yield run
                    connection.execute("COMMIT")
                except BaseException:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                if _name_of(error) in _DAMAGED:  # the next call begins a new file
                    connection.close()
                    self._connection = None
                raise QueueError(f"{str(self._path)!r}: {error}") from error

    def _trim(self, run: "_Run", sink: str) -> int:
        """Let the oldest messages of a sink make room; how many."""
        bound = self._bounds[sink]
        rows = run(
            "SELECT number, length(body) FROM messages WHERE sink = ? ORDER BY number", (sink,)
        )
        count, size, lost = len(rows), sum(length for _, length in rows), 0
        for number, length in rows:
            if count <= bound.messages and size <= bound.size:
                break
            if number != self._held.get(sink):
                run("DELETE FROM messages WHERE number = ?", (number,))
                count, size, lost = count - 1, size - length, lost + 1
        if lost:
            _count(run, sink, "dropped", lost)
        return lost


class _Run(Protocol):
    """Runs a statement with its values; the rows that it gives."""

    def __call__(self, statement: str, values: Sequence[object], /) -> list[tuple[Any, ...]]: ...


def _count(run: _Run, sink: str, what: str, number: int) -> None:
    """Add to a column of `totals`."""
    run(
        f"INSERT INTO totals(sink, {what}) VALUES (?, ?) "
        f"ON CONFLICT(sink) DO UPDATE SET {what} = {what} + excluded.{what}",
        (sink, number),
    )


def _name_of(error: sqlite3.Error) -> str:
    """SQLite's name of an error; empty where it is one of Python's module itself."""
    return str(getattr(error, "sqlite_errorname", ""))


def _damaged(found: str) -> sqlite3.DatabaseError:
    """As SQLite raises it where it comes upon damage by itself."""
    error = sqlite3.DatabaseError(found)
    error.sqlite_errorname = "SQLITE_CORRUPT"
    return error
