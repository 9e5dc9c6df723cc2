"""The load on a server, for locust; `serving.py` starts it.

Takes from the environment: VIDEOS, paths with ":" between; ROUTE; EACH_SECONDS, how often a user
asks (0: as soon as it has its answer); RESULT, a file that gets a line of JSON for each answer:
status, when it came, how long it took.
"""

import itertools
import json
import os
import time
from pathlib import Path

from locust import FastHttpUser, constant_pacing, constant_throughput, events, task

VIDEOS = [Path(name).read_bytes() for name in os.environ["VIDEOS"].split(":")]
EACH_SECONDS = float(os.environ["EACH_SECONDS"])
_next = itertools.cycle(VIDEOS)
_answers: list[tuple[int, float, float]] = []


class Client(FastHttpUser):
    """Sends one video after the other."""

    wait_time = constant_pacing(EACH_SECONDS) if EACH_SECONDS else constant_throughput(1e9)
    network_timeout = connection_timeout = 120.0

    @task
    def classify(self) -> None:
        """One request."""
        start = time.monotonic()
        files = {"file": ("video.mp4", next(_next), "video/mp4")}
        with self.client.post(os.environ["ROUTE"], files=files, catch_response=True) as answer:
            _answers.append((answer.status_code, time.monotonic(), time.monotonic() - start))
            answer.success()


@events.quitting.add_listener
def write(**_: object) -> None:
    """What came, for `serving.py`."""
    lines = [json.dumps(answer) for answer in _answers]
    Path(os.environ["RESULT"]).write_text("\n".join(lines))
