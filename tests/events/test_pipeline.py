"""Events on their way: nothing is lost when the program, a sink or the disk fails."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from stdeploy.errors import SpecError
from stdeploy.events import pipeline as pipeline_module
from stdeploy.events.sink import Message
from tests.events.feeding import WALL, answer, feed_events, pipeline
from tests.helpers.full_disk import files_of_at_most
from tests.helpers.receivers import free_port, json_lines, until, webhook_receiver

LINES = {"kind": "json-lines", "file": "events.jsonl"}


def ids_in(file: Path) -> list[str]:
    return [line["id"] for line in json_lines(file)]


def test_events_go_to_every_sink_that_wants_them(tmp_path: Path) -> None:
    rules = [
        {"name": "fight", "labels": "fight", "on": 0.8, "off": 0.5},
        {"name": "calm", "labels": "nothing", "on": 0.8, "off": 0.5},
    ]
    other = {**LINES, "name": "other", "file": "other.jsonl", "rules": "calm"}
    with pipeline(tmp_path, LINES, other, rules=rules) as events:
        feed_events_of_both = events.take(answer(0, 0.9)) + events.take(answer(1, 0.1))
    ids = [event.id for event in feed_events_of_both]
    # "fight" starts; it ends, and "calm" starts; "calm" ends with the program.
    assert ids_in(tmp_path / "events.jsonl")[:3] == ids
    assert [line["rule"] for line in json_lines(tmp_path / "other.jsonl")] == ["calm", "calm"]
    assert json_lines(tmp_path / "other.jsonl")[1]["reason"] == "program_ended"
    counts = events.counts()
    assert counts.started == {("fight", "door"): 1, ("calm", "door"): 1} == counts.ended


def test_standard_output_gets_lines_as_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pipeline(tmp_path, {**LINES, "file": "-"}) as events:
        ids = feed_events(events, 2)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert all(name in line for name, line in zip(ids, lines, strict=True))


def test_a_torn_line_of_another_program_stays_alone(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text('{"torn": ')
    with pipeline(tmp_path, LINES) as events:
        ids = feed_events(events, 1)
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    assert (lines[0], len(lines)) == ('{"torn": ', 3)
    assert ids[0] in lines[1]


def test_a_file_that_is_moved_away_begins_anew(tmp_path: Path) -> None:
    with pipeline(tmp_path, LINES) as events:
        ids = feed_events(events, 1)
        until(lambda: ids_in(tmp_path / "events.jsonl") == ids)
        (tmp_path / "events.jsonl").rename(tmp_path / "events.jsonl.1")
        more = feed_events(events, 1, first=1)
    assert ids_in(tmp_path / "events.jsonl") == more


def test_a_source_that_falls_silent_ends_its_events(tmp_path: Path) -> None:
    with pipeline(tmp_path, LINES, gap_seconds=0.3) as events:
        events.take(answer(0, 0.9))
        until(lambda: len(ids_in(tmp_path / "events.jsonl")) == 2)
    end = json_lines(tmp_path / "events.jsonl")[1]
    assert (end["kind"], end["reason"], end["end_seconds"]) == ("end", "no_answers", 0.0)


def test_a_source_that_stops_ends_its_events_after_its_last_answers(tmp_path: Path) -> None:
    with pipeline(tmp_path, LINES) as events:
        events.take(answer(0, 0.9))
        events.source_stopped("door", "source_broke_off")
        events.source_stopped("yard", "source_ended")  # without an answer: nothing to end
        events.take(answer(1, 0.9))  # of its last frames
        until(lambda: len(ids_in(tmp_path / "events.jsonl")) == 2)
        events.take(answer(30, 0.9))  # it is back
        events.source_stopped("door", "source_ended")
    lines = json_lines(tmp_path / "events.jsonl")
    assert [(line["kind"], line.get("end_seconds"), line.get("reason")) for line in lines] == [
        ("start", None, None),
        ("end", 1.0, "source_broke_off"),
        ("start", None, None),
        ("end", 30.0, "source_ended"),
    ]


def test_a_sink_that_hangs_holds_nothing_up(tmp_path: Path) -> None:
    port = free_port()
    hanging = {"kind": "webhook", "url": f"http://127.0.0.1:{port}/", "timeout_seconds": 60}
    import socket

    with socket.create_server(("127.0.0.1", port)):  # accepts, and never answers
        events = pipeline(tmp_path, hanging, LINES)
        slowest = 0.0
        for number in range(500):
            start = time.perf_counter()
            events.take(answer(number, 0.9 if number % 2 else 0.1))
            slowest = max(slowest, time.perf_counter() - start)
        until(lambda: len(ids_in(tmp_path / "events.jsonl")) == 500)
        assert events.counts().sinks["webhook"].queued == 500
        start = time.perf_counter()
        events.close(seconds=1.0)
        assert time.perf_counter() - start < 5
    assert slowest < 0.25  # a disk that is busy elsewhere; usually it is a tenth of a millisecond


def test_what_is_left_waits_for_the_next_run_and_is_told(tmp_path: Path) -> None:
    port = free_port()
    hook = {"kind": "webhook", "url": f"http://127.0.0.1:{port}/"}
    told: list[str] = []
    events = pipeline(tmp_path, hook, report=told.append)
    ids = feed_events(events, 3)
    events.close(seconds=0.5)
    assert told[-1].startswith("6 messages for the sink 'webhook' wait for the next run, in '")
    with webhook_receiver(tmp_path, port) as file, pipeline(tmp_path, hook):
        until(lambda: ids_in(file) == ids)


PROGRAM = """
import sys
from pathlib import Path
from tests.events.feeding import feed_events, pipeline, answer
hook = {"kind": "webhook", "url": sys.argv[2], "longest_pause_seconds": 0.1, "timeout_seconds": 2}
events = pipeline(Path(sys.argv[1]), hook)
events.take(answer(0, 0.9, "yard"))  # goes on when the program is killed
for number in range(100000):
    ids = feed_events(events, 1, first=number)
    assert events.flush()
    print(*ids, sep="\\n", flush=True)
"""


def test_a_program_that_is_killed_has_lost_nothing(tmp_path: Path) -> None:
    """Killed three times, at any moment, twice while the receiver is away."""
    port = free_port()
    written: list[str] = []

    def run_and_kill(seconds: float) -> None:
        command = [sys.executable, "-c", PROGRAM, str(tmp_path), f"http://127.0.0.1:{port}/"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        piped = {"stdout": subprocess.PIPE, "text": True, "env": environment}
        with subprocess.Popen(command, **piped) as program:
            assert program.stdout is not None
            written.append(program.stdout.readline().strip())  # it has begun
            threading.Timer(seconds, program.send_signal, (signal.SIGKILL,)).start()
            written.extend(line.strip() for line in program.stdout)
        assert program.returncode == -signal.SIGKILL

    run_and_kill(0.5)
    with webhook_receiver(tmp_path, port) as file:
        run_and_kill(0.7)
    run_and_kill(0.3)
    told: list[str] = []
    hook = {"kind": "webhook", "url": f"http://127.0.0.1:{port}/", "longest_pause_seconds": 0.1}
    with webhook_receiver(tmp_path, port), pipeline(tmp_path, hook, report=told.append) as events:
        until(lambda: events.counts().sinks["webhook"].queued == 0, seconds=60)
    received = ids_in(file)
    assert len(received) == len(set(received))
    assert len(written) > 20
    assert set(written) <= set(received)
    assert [name for name in received if name in set(written)] == written  # in order
    yard = [line for line in json_lines(file) if line["source"] == "yard"]
    assert [line["kind"] for line in yard].count("start") == 3
    assert [line["reason"] for line in yard if line["kind"] == "end"] == ["program_killed"] * 3


def test_a_full_disk_stops_nothing_and_its_events_come_later(tmp_path: Path) -> None:
    told: list[str] = []
    lines = {**LINES, "file": "-"}
    with pipeline(tmp_path, lines, report=told.append) as events:
        with files_of_at_most(4096):
            start = time.perf_counter()
            ids = feed_events(events, 200)
            assert time.perf_counter() - start < 5
            until(lambda: told)
            assert "events are held in memory, and the disk tried again: " in told[0]
            assert not events.flush(0.1)
        assert events.flush(10)
        until(lambda: events.counts().sinks["json-lines"].delivered == len(ids))
    assert told[1] == "the disk takes events again"


def test_a_disk_that_stays_full_loses_the_oldest_and_counts_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline_module, "_MOST_HELD", 20)
    with pipeline(tmp_path, LINES) as events:
        with files_of_at_most(4096):
            ids = feed_events(events, 50)
        until(lambda: len(ids_in(tmp_path / "events.jsonl")) >= 20)
        assert events.flush()
        lost = events.counts().lost
    received = ids_in(tmp_path / "events.jsonl")
    assert lost > 0
    assert received == ids[lost:] or len(set(ids) - set(received)) == lost


def test_a_file_without_room_gets_whole_lines_later(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_text("x" * 99_990 + "\n")
    told: list[str] = []
    with pipeline(tmp_path, LINES, report=told.append) as events:
        with files_of_at_most(100_000):  # enough for the queue
            ids = feed_events(events, 1)
            until(lambda: told)
            assert file.read_text() == "x" * 99_990 + "\n"
        until(lambda: file.stat().st_size > 100_000)
        until(lambda: events.counts().sinks["json-lines"].queued == 0)
    assert [name in line for name, line in zip(ids, file.read_text().splitlines()[1:], strict=True)]
    assert "cannot write to" in told[0]


def test_a_queue_that_is_full_drops_the_oldest_and_tells(tmp_path: Path) -> None:
    port = free_port()
    hook = {"kind": "webhook", "url": f"http://127.0.0.1:{port}/", "max_messages": 4}
    hook |= {"longest_pause_seconds": 0.1}
    told: list[str] = []
    with pipeline(tmp_path, hook, report=told.append) as events:
        ids = feed_events(events, 5)
        assert events.flush()
        counts = events.counts().sinks["webhook"]
        assert (counts.queued, counts.dropped) == (4, 6)
        with webhook_receiver(tmp_path, port) as file:
            until(lambda: events.counts().sinks["webhook"].queued == 0)
    # The one that is being delivered may be an older one.
    assert ids_in(file)[-3:] == ids[-3:]
    assert any("the queue of the sink 'webhook' is full: its " in text for text in told)


def test_messages_of_a_sink_that_is_gone_are_told(tmp_path: Path) -> None:
    hook = {"kind": "webhook", "url": f"http://127.0.0.1:{free_port()}/"}
    events = pipeline(tmp_path, hook)
    feed_events(events, 1)
    events.close(seconds=0.3)
    told: list[str] = []
    pipeline(tmp_path, LINES, report=told.append).close()
    assert told == ["2 messages wait for the sink 'webhook', which there is not any more"]


def test_a_label_that_the_network_lacks_is_refused_and_nothing_is_made(tmp_path: Path) -> None:
    rules = [{"name": "fight", "labels": "fihgt", "on": 0.8}]
    with pytest.raises(SpecError, match=r"the network has no label 'fihgt'; did you mean 'fight'"):
        pipeline(tmp_path, LINES, rules=rules)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_set_up_leaves_nothing_open(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    clips = {"kind": "clip", "folder": "file"}
    with pytest.raises(SpecError, match=r"sink 'clip': folder = '.*file' cannot be made"):
        pipeline(tmp_path, LINES, clips)
    pipeline(tmp_path, LINES).close()  # the queue is free


def test_a_fault_in_a_sink_does_not_end_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stdeploy.events.json_lines import JsonLines

    real, tries = JsonLines.deliver, []

    def deliver(self: JsonLines, message: Message) -> None:
        tries.append(message.id)
        if len(tries) == 1:
            raise KeyError("a fault of ours")
        real(self, message)

    monkeypatch.setattr(JsonLines, "deliver", deliver)
    told: list[str] = []
    with pipeline(tmp_path, {**LINES, "longest_pause_seconds": 0.1}, report=told.append) as events:
        ids = feed_events(events, 1)
        until(lambda: ids_in(tmp_path / "events.jsonl") == ids)
    assert tries == [ids[0], *ids]
    assert "KeyError: 'a fault of ours'; trying again" in told[0]


def test_times_in_a_message_are_those_of_the_answers(tmp_path: Path) -> None:
    with pipeline(tmp_path, LINES) as events:
        events.take(answer(1.25, 0.9))
    start, end = json_lines(tmp_path / "events.jsonl")
    assert (start["start_seconds"], start["start_time"]) == (1.25, "2027-01-15T08:00:01.250Z")
    assert (end["end_time"], end["reason"]) == ("2027-01-15T08:00:01.250Z", "program_ended")
    assert WALL == 1_800_000_000
