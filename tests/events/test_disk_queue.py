"""Messages on the disk: in order, bounded, and still there after whatever comes."""

import contextlib
import sqlite3
from pathlib import Path

import pytest

from stdeploy.errors import SpecError
from stdeploy.events.disk_queue import FILE, Addition, Bound, DiskQueue, QueueError
from stdeploy.events.sink import Message
from tests.helpers.full_disk import files_of_at_most


def queue(folder: Path, report=lambda _: None, **bounds: int) -> DiskQueue:
    bound = Bound(bounds.get("messages", 100), bounds.get("size", 10_000))
    return DiskQueue(folder, {"a": bound, "b": bound}, report)


def add(to: DiskQueue, *names: str, sinks: tuple[str, ...] = ("a",), size: int = 10) -> dict:
    return to.add([Addition(Message(n, n.encode().ljust(size)), sinks, n, True) for n in names])


def left(of: DiskQueue, sink: str = "a") -> list[str]:
    """Ids of all messages, which are taken out."""
    found = []
    while (waiting := of.first(sink)) is not None:
        found.append(waiting.message.id)
        of.remove(sink, waiting.number)
    return found


def test_messages_come_out_in_order_for_each_sink(tmp_path: Path) -> None:
    of = queue(tmp_path)
    add(of, "1", "2", sinks=("a", "b"))
    add(of, "3", sinks=("b",))
    assert of.totals("b")[:2] == (3, 30)
    assert (left(of, "a"), left(of, "b"), left(of, "a")) == (["1", "2"], ["1", "2", "3"], [])


def test_a_message_stays_until_it_is_removed(tmp_path: Path) -> None:
    of = queue(tmp_path)
    add(of, "1")
    assert of.first("a") == of.first("a") is not None
    of.close()
    again = queue(tmp_path)
    assert again.first("a").message == Message("1", b"1".ljust(10))
    assert left(again) == ["1"]


def test_the_oldest_make_room_and_are_counted_for_ever(tmp_path: Path) -> None:
    of = queue(tmp_path, messages=3)
    assert add(of, "1", "2", "3") == {}
    assert add(of, "4", "5") == {"a": 2}
    of.close()
    again = queue(tmp_path, messages=3)
    assert again.totals("a") == (3, 30, 2, 0)
    assert left(again) == ["3", "4", "5"]


def test_bytes_are_bounded_as_well(tmp_path: Path) -> None:
    of = queue(tmp_path, size=250)
    assert add(of, "1", "2", size=100) == {}
    assert add(of, "3", size=100) == {"a": 1}
    assert left(of) == ["2", "3"]
    assert add(of, "4", size=251) == {"a": 1}
    assert left(of) == []


def test_what_is_being_delivered_does_not_make_room(tmp_path: Path) -> None:
    of = queue(tmp_path, messages=2)
    add(of, "1", "2")
    taken = of.first("a")
    assert add(of, "3", "4") == {"a": 2}
    assert of.totals("a").queued == 2
    of.remove("a", taken.number)
    assert left(of) == ["4"]


def test_one_sink_that_is_full_takes_nothing_from_another(tmp_path: Path) -> None:
    of = queue(tmp_path, messages=2)
    add(of, "1", "2", "3", sinks=("a",))
    add(of, "4", sinks=("a", "b"))
    assert (left(of, "a"), left(of, "b")) == (["3", "4"], ["4"])


def test_refused_messages_are_kept_and_counted(tmp_path: Path) -> None:
    of = queue(tmp_path)
    add(of, "1", "2")
    of.remove("a", of.first("a").number, refused="HTTP status 401")
    assert of.totals("a") == (1, 10, 0, 1)
    of.close()
    with sqlite3.connect(tmp_path / FILE) as file:
        assert file.execute("SELECT sink, id, reason FROM dead").fetchall() == [
            ("a", "1", "HTTP status 401")
        ]


def test_at_most_a_thousand_refused_messages_are_kept(tmp_path: Path) -> None:
    of = queue(tmp_path, messages=2000, size=10**6)
    add(of, *map(str, range(1003)))
    for _ in range(1003):
        of.remove("a", of.first("a").number, refused="no")
    assert of.totals("a") == (0, 0, 0, 1003)
    of.close()
    with sqlite3.connect(tmp_path / FILE) as file:
        kept = file.execute("SELECT id FROM dead ORDER BY number").fetchall()
    assert (len(kept), kept[0], kept[-1]) == (1000, ("3",), ("1002",))


def test_events_that_are_going_on_are_known_afterwards(tmp_path: Path) -> None:
    of = queue(tmp_path)
    add(of, "1", "2")
    of.add([Addition(Message("1.end", b"end"), ("a",), "1", False)])
    of.close()
    assert queue(tmp_path).running() == [b"2".ljust(10)]


def test_one_program_at_a_time(tmp_path: Path) -> None:
    of = queue(tmp_path)
    with pytest.raises(SpecError, match=r"another program uses it; end that one, or set another"):
        queue(tmp_path)
    of.close()
    queue(tmp_path).close()


@pytest.mark.parametrize("content", [b"no database at all" * 100, None], ids=["foreign", "torn"])
def test_a_damaged_file_is_put_aside_and_told(tmp_path: Path, content: bytes | None) -> None:
    of = queue(tmp_path, messages=10_000, size=10**8)
    add(of, *map(str, range(500)), size=1000)
    of.close()
    file = tmp_path / FILE
    if content is None:
        whole = file.read_bytes()
        content = whole[:4096] + b"\xff" * 8192 + whole[12288:]
    file.write_bytes(content)
    told: list[str] = []
    again = queue(tmp_path, report=told.append)
    assert len(told) == 1
    assert "is damaged; it is queue.sqlite.damaged-" in told[0]
    assert [path.read_bytes() for path in tmp_path.glob(f"{FILE}.damaged-*")] == [content]
    add(again, "1")
    assert left(again) == ["1"]


def test_a_file_that_is_damaged_meanwhile_is_put_aside_and_numbers_go_on(tmp_path: Path) -> None:
    told: list[str] = []
    of = queue(tmp_path, report=told.append, messages=10_000, size=10**8)
    add(of, *map(str, range(2000)), size=5000)  # more than SQLite keeps in memory
    before = of.first("a").number
    with (tmp_path / FILE).open("r+b") as file:
        size = file.seek(0, 2)
        file.seek(4096)
        file.write(b"\xff" * (size - 4096))
    (tmp_path / f"{FILE}-wal").write_bytes(b"")
    for _ in range(3):
        with contextlib.suppress(QueueError):
            left(of)
            break
    assert len(told) == 1
    add(of, "new")
    assert of.first("a", after=before).message.id == "new"
    assert left(of) == ["new"]


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SpecError, match=r"folder of the queue .*file' cannot be made: File exists"):
        queue(tmp_path / "file")


def test_a_full_disk_loses_nothing_that_was_in(tmp_path: Path) -> None:
    of = queue(tmp_path, messages=10_000, size=10**8)
    add(of, "1")

    def fill() -> None:
        for number in range(10_000):
            add(of, f"big {number}", size=10_000)

    with (
        files_of_at_most(200_000),
        pytest.raises(QueueError, match=r"': (disk I/O error|database or disk is full)"),
    ):
        fill()
    assert add(of, "last") == {}
    ids = left(of)
    assert (ids[0], ids[-1]) == ("1", "last")
    assert ids[1:-1] == [f"big {number}" for number in range(len(ids) - 2)]


def test_a_disk_that_is_full_from_the_start_may_have_room_later(tmp_path: Path) -> None:
    with files_of_at_most(1000):
        of = queue(tmp_path)
        with pytest.raises(QueueError):
            add(of, "1")
    add(of, "2")
    assert left(of) == ["2"]
