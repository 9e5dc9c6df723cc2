"""Events of a scripted video: all found, and nothing lost while receivers are away.

    python benchmarks/events.py FOLDER [--results FILE]

FOLDER/events.onnx answers; where there is none, the starter network is trained first, on clips
made for the question (10 minutes on 2 cores). The video (events_video.py) shows every action of
the synthetic data set twice, between scenes in which nothing moves, and is played in real time by
`stdeploy watch --sources`, with a rule for each action and four sinks: a file, a webhook whose
receiver is killed for a minute, an MQTT broker (mosquitto) that is ended and started again, and
clips. The events are compared with the script, and with those of the same rules over every window
of the file.
"""

import argparse
import collections
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import events_video
import numpy as np
from events_video import LABELS, NOTHING, Action

from stdeploy.events.event import Answer, Event, Moment
from stdeploy.events.pipeline import EventPipeline
from stdeploy.events.rules import Rules
from stdeploy.events.settings import EventSettings, parse_events
from stdeploy.inference.classifier import Classifier
from stdeploy.inference.prediction import rank
from stdeploy.video.transform import clip_frame
from tests.helpers.receivers import (
    Subscriber,
    broker,
    free_port,
    json_lines,
    until,
    webhook_receiver,
)

SEED = 7
HOP_SECONDS = 0.5
WEBHOOK_AWAY = (30.0, 90.0)  # seconds after the first answer
BROKER_AWAY = (50.0, 65.0)
RULES = [
    {"name": label, "labels": [label], "on": 0.6, "off": 0.25, "least_seconds": 0.5}
    for label in LABELS
    if label != NOTHING
]


def main() -> None:
    """Run it and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--results", type=Path)
    asked = parser.parse_args()
    folder = asked.folder.resolve()
    folder.mkdir(exist_ok=True)
    if not (folder / "events.onnx").exists():
        train(folder)
    actions = write_script(folder / "script.mp4")
    reference, span = events_of_every_window(folder)
    run = watch(folder)
    found = {
        "processor": processor(),
        "load": os.getloadavg()[0],
        "seconds": round(actions[-1].end_seconds, 1),
        "hop_seconds": HOP_SECONDS,
        "span_seconds": span,
        "events": compare(actions, reference, run["ends"]),
        "sinks": run["sinks"],
        "lag_seconds": run["lag_seconds"],
        "speed": speed(folder),
    }
    text = json.dumps(found, indent=1)
    print(text)
    if asked.results:
        asked.results.write_text(text + "\n")


def train(folder: Path) -> None:
    """The starter network on the classes of the script, as folder/events.onnx."""
    events_video.write_training_set(folder / "data", train=48, validation=8, seed=1)
    for command in (
        "train --recipe starter --data data -o events.pt --set optimisation.epochs=12",
        "fuse events.pt",
        "export",
        "evaluate events.onnx --data data",
    ):
        subprocess.run([sys.executable, "-m", "stdeploy", *command.split()], cwd=folder, check=True)


def write_script(video: Path) -> list[Action]:
    """Every action twice, three motions each, between two of nothing; what is seen when."""
    script = [(NOTHING, 2)]
    for label in [label for label in LABELS if label != NOTHING] * 2:
        script += [(label, 3), (NOTHING, 2)]
    frames, actions = events_video.scripted_frames(script, SEED)
    events_video.write_video(video, frames)
    return actions


def events_of_every_window(folder: Path) -> tuple[list[Event], float]:
    """Ends of what the rules find in the file, looking at every window; and its span in seconds."""
    capture = cv2.VideoCapture(str(folder / "script.mp4"))
    frames = []
    while (read := capture.read())[0]:
        frames.append(read[1])
    rules = Rules(settings_of(folder, []).rules, gap_seconds=10.0)
    events = []
    with Classifier.open(folder / "events.onnx") as classifier:
        clip = classifier.card.clip
        due = [clip_frame(frame, clip) for frame in frames[:: clip.frame_stride]]
        for last in range(clip.num_frames - 1, len(due)):
            window = np.stack(due[last + 1 - clip.num_frames : last + 1])
            labels, scores = rank(classifier.runtime.run(window[None]), classifier.card.labels)
            seconds = last * clip.interval_seconds
            events += rules.take(Answer("script", Moment(seconds, seconds), labels, scores))
    return [event for event in events + rules.close() if event.kind == "end"], clip.span_seconds


def settings_of(folder: Path, sinks: list[dict[str, Any]], name: str = "queue") -> EventSettings:
    """[events] with the rules of this benchmark."""
    sinks = sinks or [{"kind": "json-lines", "file": "unused.jsonl"}]
    fields = {"folder": name, "rules": RULES, "sinks": sinks}
    return parse_events(fields, file=folder / "cameras.toml")


def write_sources(folder: Path, webhook: int, mqtt: int) -> None:
    """folder/cameras.toml."""
    rules = "".join(
        "\n[[events.rules]]\n"
        + "".join(f"{name} = {json.dumps(value)}\n" for name, value in rule.items())
        for rule in RULES
    )
    (folder / "secret").write_text("of this benchmark\n")
    (folder / "cameras.toml").write_text(
        f"""hop_seconds = {HOP_SECONDS}

[[source]]
name = "script"
url = "script.mp4"

[events]
folder = "queue"
{rules}
[[events.sinks]]
kind = "json-lines"
file = "events.jsonl"

[[events.sinks]]
kind = "webhook"
url = "http://127.0.0.1:{webhook}/"
secret_file = "secret"

[[events.sinks]]
kind = "mqtt"
host = "127.0.0.1"
port = {mqtt}

[[events.sinks]]
kind = "clip"
before_seconds = 2
after_seconds = 2
"""
    )


def watch(folder: Path) -> dict[str, Any]:
    """Watch the script once, with receivers that come and go; what each got."""
    for name in ("events.jsonl", "received.jsonl", "receiver.log", "answers.jsonl"):
        (folder / name).unlink(missing_ok=True)
    for name in ("queue", "clips"):
        for path in (folder / name).glob("*"):
            path.unlink()
    web, mqtt = free_port(), free_port()
    write_sources(folder, web, mqtt)
    command = [sys.executable, "-m", "stdeploy", "watch", "--sources", "cameras.toml"]
    command += ["--model", "events.onnx", "--json"]
    received: list[tuple[str, dict[str, Any]]] = []
    begun = threading.Event()
    with (folder / "answers.jsonl").open("w") as answers:
        program = subprocess.Popen(command, cwd=folder, stdout=answers)
        threads = [
            threading.Thread(target=web_comes_and_goes, args=(folder, web, begun, program)),
            threading.Thread(target=mqtt_comes_and_goes, args=(folder, mqtt, begun, received)),
        ]
        for thread in threads:
            thread.start()
        until(lambda: json_lines(folder / "answers.jsonl"), seconds=120, what="the first answer")
        begun.set()
        program.wait()
        for thread in threads:
            thread.join()
    sent = json_lines(folder / "events.jsonl")
    ids = [line["id"] for line in sent]
    posts = (folder / "receiver.log").read_text().splitlines()
    return {
        "ends": [line for line in sent if line["kind"] == "end"],
        "sinks": {
            "json-lines": of_sink(ids, ids),
            "webhook": of_sink(ids, [line.split()[-1] for line in posts]),
            "webhook, first of each id": of_sink(
                ids, [line["id"] for line in json_lines(folder / "received.jsonl")]
            ),
            "mqtt": of_sink(ids, [message["id"] for _, message in received]),
            "clips": len(list((folder / "clips").glob("*.mp4"))),
        },
        "lag_seconds": lags(json_lines(folder / "answers.jsonl")),
    }


def web_comes_and_goes(
    folder: Path, port: int, begun: threading.Event, program: subprocess.Popen[bytes]
) -> None:
    """The receiver of the webhook, which is away for a minute."""
    with webhook_receiver(folder, port, folder / "secret"):
        begun.wait()
        time.sleep(WEBHOOK_AWAY[0])
    time.sleep(WEBHOOK_AWAY[1] - WEBHOOK_AWAY[0])
    with webhook_receiver(folder, port, folder / "secret"):
        program.wait()


def mqtt_comes_and_goes(
    folder: Path,
    port: int,
    begun: threading.Event,
    received: list[tuple[str, dict[str, Any]]],
) -> None:
    """The broker, and somebody who gets everything from it."""
    state = folder / "broker"
    state.mkdir(exist_ok=True)
    for path in state.glob("*"):
        path.unlink()
    with broker(state, port), Subscriber(port) as subscriber:
        begun.wait()
        time.sleep(BROKER_AWAY[0])
    received += subscriber.received
    time.sleep(BROKER_AWAY[1] - BROKER_AWAY[0])
    with broker(state, port), Subscriber(port) as subscriber:
        answers = folder / "answers.jsonl"
        while True:  # until the program has ended
            size = answers.stat().st_size
            time.sleep(8.0)
            if answers.stat().st_size == size:
                break
    received += subscriber.received


def of_sink(sent: Sequence[str], received: Sequence[str]) -> dict[str, Any]:
    """What a receiver got of what was sent."""
    once = list(dict.fromkeys(received))
    return {
        "sent": len(sent),
        "received": len(received),
        "repeats": len(received) - len(once),
        "lost": len(set(sent) - set(once)),
        "in_order": once == list(sent),
    }


def lags(answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How late answers are, while a receiver is away and otherwise."""
    begin, end = min(WEBHOOK_AWAY[0], BROKER_AWAY[0]), max(WEBHOOK_AWAY[1], BROKER_AWAY[1])
    first = answers[0]["stream_seconds"]
    away = {True: [], False: []}
    for answer in answers:
        away[begin <= answer["stream_seconds"] - first < end].append(answer["lag_seconds"])
    return {
        name: {
            "answers": len(each),
            "median": round(statistics.median(each), 3),
            "p95": round(float(np.percentile(each, 95)), 3),
            "longest": round(max(each), 3),
        }
        for name, each in (("a receiver is away", away[True]), ("all are there", away[False]))
    }


def compare(
    actions: Sequence[Action], reference: Sequence[Event], live: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Events of the live run against the script, and against those of every window."""
    shown = [action for action in actions if action.label != NOTHING]
    missed, parts, starts, ends, used = [], 0, [], [], 0
    for action in shown:
        of_action = [
            event
            for event in live
            if event["rule"] == action.label
            and event["start_seconds"] >= action.start_seconds
            and event["start_seconds"] <= action.end_seconds + 2.0
        ]
        if not of_action:
            missed.append(action.label)
            continue
        used += len(of_action)
        parts += len(of_action) - 1
        starts.append(of_action[0]["start_seconds"] - action.start_seconds)
        ends.append(of_action[-1]["end_seconds"] - action.end_seconds)
    return {
        "actions": len(shown),
        "found": len(shown) - len(missed),
        "missed": missed,
        "parts_too_many": parts,
        "false_alarms": len(live) - used,
        "start_after_the_action_began": summary(starts),
        "end_after_the_action_ended": summary(ends),
        "of_every_window": len(reference),
        **against_every_window(reference, live),
    }


def against_every_window(
    reference: Sequence[Event], live: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """How much later events are that only an answer a hop sees."""
    starts, ends, without = [], [], 0
    left = list(live)
    for event in reference:
        assert event.end is not None
        close = [
            each
            for each in left
            if each["rule"] == event.rule
            and abs(each["start_seconds"] - event.start.seconds) <= 2 * HOP_SECONDS
        ]
        if not close:
            without += 1
            continue
        left.remove(close[0])
        starts.append(close[0]["start_seconds"] - event.start.seconds)
        ends.append(close[0]["end_seconds"] - event.end.seconds)
    return {
        "without_counterpart": {"of_every_window": without, "live": len(left)},
        "start_after_that_of_every_window": summary(starts),
        "end_after_that_of_every_window": summary(ends),
    }


def summary(seconds: Sequence[float]) -> dict[str, float]:
    """The least, the median and the most."""
    return {
        "least": round(min(seconds), 3),
        "median": round(statistics.median(seconds), 3),
        "most": round(max(seconds), 3),
    }


def speed(folder: Path) -> dict[str, float]:
    """What an answer costs the rules, and how fast a backlog goes to a receiver on this host."""
    port = free_port()
    hook = {"kind": "webhook", "url": f"http://127.0.0.1:{port}/", "max_messages": 20_000}
    (folder / "receiver.log").unlink(missing_ok=True)
    (folder / "received.jsonl").unlink(missing_ok=True)
    with fresh_pipeline(folder, hook) as events:
        scores = {True: (0.9, *[0.01] * 10), False: (0.01, 0.9, *[0.01] * 9)}
        took, count = [], 2000
        for number in range(count):
            answer = Answer("script", Moment(number, number), LABELS, scores[number % 2 == 0])
            start = time.perf_counter()
            events.take(answer)
            took.append(time.perf_counter() - start)
        assert events.flush(60)
        queued = events.counts().sinks["webhook"].queued
        size = sum(path.stat().st_size for path in (folder / "speed").glob("queue.sqlite*"))
        with webhook_receiver(folder, port):
            until(lambda: events.counts().sinks["webhook"].delivered > 10, seconds=60)
            start, before = time.perf_counter(), events.counts().sinks["webhook"].delivered
            until(lambda: events.counts().sinks["webhook"].queued == 0, seconds=600)
            seconds = time.perf_counter() - start
    return {
        "microseconds_an_answer_median": round(statistics.median(took) * 1e6, 1),
        "microseconds_an_answer_p99": round(float(np.percentile(took, 99)) * 1e6, 1),
        "messages_queued": queued,
        "bytes_of_the_queue": size,
        "messages_a_second_to_the_webhook": round((queued - before) / seconds, 1),
    }


@contextlib.contextmanager
def fresh_pipeline(folder: Path, sink: dict[str, Any]) -> Iterator[EventPipeline]:
    """Of rules that take an answer of one second for an event."""
    for path in (folder / "speed").glob("*"):
        path.unlink()
    settings = settings_of(folder, [sink], "speed")
    rules = tuple(rule.model_copy(update={"least_seconds": 0.0}) for rule in settings.rules)
    settings = settings.model_copy(update={"rules": rules})
    with EventPipeline(settings, labels=LABELS, sources=["script"]) as events:
        yield events


def processor() -> str:
    """Of this host."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = collections.Counter(
        line.partition(":")[2].strip() for line in lines if line.startswith("model name")
    )
    return ", ".join(f"{count} x {name}" for name, count in names.items()) or platform.machine()


if __name__ == "__main__":
    main()
