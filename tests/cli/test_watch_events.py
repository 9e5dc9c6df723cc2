"""From [events] of a list of sources to who is told, with the program as its users run it."""

import datetime
import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from tests.data.files import TINY_ONNX
from tests.helpers.program import stdeploy
from tests.helpers.receivers import free_port, json_lines, until, webhook_receiver
from tests.helpers.videos import number_of, numbered_frames, write_video

SOURCES = """
hop_seconds = 0.2

[[source]]
name = "door"
url = "door.mp4"

[[source]]
name = "yard"
url = "yard.mp4"
"""
RULE = """
[[events.rules]]
name = "four"
labels = "class 4"
on = 0.05
sources = "door"
"""


def folder_with(folder: Path, events: str, *, seconds: float = 2.5) -> Path:
    """A list of two films, with what it says of events."""
    for name in ("door", "yard"):
        write_video(folder / f"{name}.mp4", numbered_frames(round(12 * seconds)), fps=12.0)
    file = folder / "cameras.toml"
    file.write_text(SOURCES + events)
    return file


def watch(folder: Path, *more: object) -> subprocess.CompletedProcess[str]:
    return stdeploy("watch", "--sources", "cameras.toml", "-m", TINY_ONNX, *more, cwd=folder)


def test_from_a_list_of_sources_to_a_webhook(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "secret").write_text("s3cret")
    hook = f"""
[[events.sinks]]
kind = "webhook"
url = "http://127.0.0.1:{port}/"
secret_file = "secret"
"""
    folder_with(tmp_path, RULE + hook)
    with webhook_receiver(tmp_path, port, tmp_path / "secret") as file:
        result = watch(tmp_path)
    assert result.returncode == 0, result.stderr
    start, end = json_lines(file)
    assert (start["kind"], start["source"], start["rule"]) == ("start", "door", "four")
    assert (end["kind"], end["event"], end["reason"]) == ("end", start["event"], "source_ended")
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    door = [answer for answer in answers if answer["source"] == "door"]
    assert len(door) < len(answers)  # the other one is watched as well
    scores = [p["score"] for a in door for p in a["predictions"] if p["label"] == "class 4"]
    assert end["peak_score"] == max(scores)
    assert end["answers"] == len(door)
    assert (end["start_seconds"], end["end_seconds"]) == (
        door[0]["stream_seconds"],
        door[-1]["stream_seconds"],
    )


def test_a_clip_has_all_frames_around_its_event(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    folder_with(tmp_path, RULE + '[[events.sinks]]\nkind = "clip"\nbefore_seconds = 0.5\n')
    result = watch(tmp_path)
    assert result.returncode == 0, result.stderr
    (clip,) = (tmp_path / "clips").glob("door_four_*.mp4")
    with av.open(str(clip)) as container:
        frames = list(container.decode(video=0))
        comment = json.loads(container.metadata["comment"])
    numbers = [number_of(frame.to_ndarray(format="bgr24")) for frame in frames]
    start = comment["start_seconds"] - 0.5
    assert numbers[0] == pytest.approx(12 * start, abs=2)
    assert 24 <= numbers[-1] <= 29
    times = [frame.time * 12 + numbers[0] for frame in frames]
    assert numbers == pytest.approx(times, abs=0.1)
    # Also those between the ones that the network was shown, of which there are 4 a second.
    assert np.diff(numbers).tolist() == [1] * (len(numbers) - 1)


def test_events_and_answers_share_standard_output(tmp_path: Path) -> None:
    folder_with(tmp_path, RULE + '[[events.sinks]]\nkind = "json-lines"\nfile = "-"\n')
    result = watch(tmp_path, "--hop", "0")
    assert result.returncode == 0, result.stderr
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["kind"] for line in lines if "kind" in line] == ["start", "end"]
    assert len([line for line in lines if "predictions" in line]) == len(lines) - 2


@pytest.mark.parametrize(
    ("events", "wrong"),
    [
        (RULE.replace("class 4", "clas 4"), "rule 'four': the network has no label 'clas 4'; did"),
        (RULE.replace("door", "dor"), "rule 'four': there is no source 'dor'; did you mean 'door'"),
        (
            "[events]\ngap_seconds = 0.1" + RULE,
            "answers about 'door' come every 0.2 s, so that every",
        ),
        (RULE.replace("0.05", "5"), "cameras.toml, [[events.rules]] 1: on = 5: 1 or less is allow"),
    ],
)
def test_a_wrong_rule_is_one_line(tmp_path: Path, events: str, wrong: str) -> None:
    folder_with(tmp_path, events + '[[events.sinks]]\nkind = "json-lines"\nfile = "-"\n')
    result = watch(tmp_path)
    assert result.returncode == 2
    assert wrong in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_a_source_that_names_events_is_told_where_that_stands(tmp_path: Path) -> None:
    file = folder_with(tmp_path, "")
    file.write_text(SOURCES.replace('name = "door"', 'name = "door"\nevents = ["four"]'))
    result = watch(tmp_path)
    assert result.returncode == 2
    assert "[[source]] 1: events: a source names no events" in " ".join(result.stderr.split())


@pytest.mark.parametrize("ends", [signal.SIGTERM, signal.SIGINT])
def test_a_program_that_is_told_to_end_ends_its_events(tmp_path: Path, ends: int) -> None:
    port = free_port()
    sink = '[[events.sinks]]\nkind = "json-lines"\nfile = "events.jsonl"\n'
    folder_with(tmp_path, RULE + sink, seconds=20)
    command = [sys.executable, "-m", "stdeploy", "watch", "--sources", "cameras.toml"]
    command += ["--model", str(TINY_ONNX), "--http", str(port)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with (
        (tmp_path / "output").open("wb") as output,
        subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=output) as program,
    ):
        try:
            until(lambda: len(json_lines(tmp_path / "events.jsonl")) == 1, seconds=60)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
                metrics = answer.read().decode().splitlines()
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/sources") as answer:
                door, yard = json.load(answer)["sources"]
        finally:
            program.send_signal(ends)
        program.wait(timeout=30)
    assert 'stdeploy_events_total{rule="four",source="door"} 1.0' in metrics
    assert 'stdeploy_events_running{rule="four",source="door"} 1.0' in metrics
    assert 'stdeploy_event_messages_delivered_total{sink="json-lines"} 1.0' in metrics
    assert 'stdeploy_event_queue_messages{sink="json-lines"} 0.0' in metrics
    _, end = json_lines(tmp_path / "events.jsonl")
    assert end["reason"] == "program_ended"
    (going_on,) = door["events"]
    assert going_on["rule"] == "four"
    began = datetime.datetime.fromisoformat(end["start_time"]).timestamp()
    assert going_on["start_time"] == pytest.approx(began, abs=0.002)
    assert yard["events"] == []


def test_two_programs_do_not_share_a_queue(tmp_path: Path) -> None:
    from stdeploy.events.disk_queue import DiskQueue

    folder_with(tmp_path, RULE + '[[events.sinks]]\nkind = "json-lines"\nfile = "-"\n')
    queue = DiskQueue(tmp_path / "events", {}, print)
    result = watch(tmp_path)
    queue.close()
    assert result.returncode == 2
    assert "another program uses it; end that one, or set another" in " ".join(
        result.stderr.split()
    )
