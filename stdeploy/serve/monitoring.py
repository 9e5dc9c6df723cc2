"""Logs (a line of JSON each, or text; each with the id of its request) and metrics (Prometheus)."""

import collections
import contextvars
import logging
import math
import sys
import time
from collections.abc import Callable
from typing import Literal, Protocol

import prometheus_client as prometheus
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from pythonjsonlogger.json import JsonFormatter

from stdeploy.backends.base import RunsClips

request_id: contextvars.ContextVar[str | None] = contextvars.ContextVar("request_id", default=None)
REQUESTS = "stdeploy.serve.requests"  # the logger that has a line for each request
_MOST_ID = 8  # characters; enough to find a line by
_MOST_PATH = 44


class _WithRequest(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        if not hasattr(record, "request_id"):
            record.request_id = request_id.get()
        return True


class _Text(logging.Formatter):
    """Lines for people: the time, what happened, and the first characters of a request's id.

    Example: "19:04:05 POST /v1/classify 422 undecodable 0.012 s 127.0.0.1 3f6c01d2".
    """

    _USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        more = {name: value for name, value in vars(record).items() if name not in self._USUAL}
        request_id = str(more.pop("request_id", None) or "")
        if record.name == REQUESTS:
            more["path"] = more["path"][:_MOST_PATH]
            more["seconds"] = f"{more['seconds']:.3f} s"
            order = ("method", "path", "status", "code", "seconds", "client")
            words = [more.get(name) for name in order]
            if "left_out" in more:
                words.append(f"left_out={more['left_out']}")
        else:
            words = [record.message, *(f"{name}={value}" for name, value in more.items())]
        level = None if record.levelno == logging.INFO else record.levelname
        clock = self.formatTime(record, "%H:%M:%S")
        line = (clock, level, *words, request_id[:_MOST_ID])
        return " ".join(str(word) for word in line if word not in (None, ""))


class RateLimit(logging.Filter):
    """Lets only so many records of one place in the code through in a while.

    What goes wrong without an end would otherwise fill the disk. The first record after the while
    tells how many were left out. Lines of requests are never left out, those of connections that
    were refused before there was a request are.

    Args:
        most: in the while.
        seconds: that it lasts.
        clock: of the time, in seconds.
    """

    def __init__(
        self,
        most: int = 5,
        seconds: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._most = most
        self._seconds = seconds
        self._clock = clock
        self._begun: dict[tuple[str, int], float] = {}
        self._count: collections.Counter[tuple[str, int]] = collections.Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        """See logging."""
        if record.name == REQUESTS and getattr(record, "method", None) is not None:
            return True
        place, now = (record.pathname, record.lineno), self._clock()
        if now - self._begun.get(place, -math.inf) >= self._seconds:
            left_out = self._count[place] - self._most
            self._begun[place], self._count[place] = now, 0
            if left_out > 0:
                record.left_out = left_out
        self._count[place] += 1
        return self._count[place] <= self._most


def set_up(form: Literal["auto", "json", "text"], level: str) -> None:
    """Write the logs of this program and its server to standard error.

    Args:
        form: "auto" is text where standard error is a terminal.
        level: of the least important record that is written.
    """
    text = form == "text" or (form == "auto" and sys.stderr.isatty())
    formatter: logging.Formatter = (
        _Text()
        if text
        else JsonFormatter(
            ["asctime", "levelname", "name", "message", "request_id"],
            rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
            datefmt="%Y-%m-%dT%H:%M:%S%z",
        )
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    handler.addFilter(_WithRequest())
    handler.addFilter(RateLimit())
    for name in ("stdeploy", "uvicorn", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(level.upper())
        logger.propagate = False
    # A line for each request is written by `http_guard.py`, with more in it.
    logging.getLogger("uvicorn.access").handlers = []
    for name in ("uvicorn.error", "asyncio"):
        logging.getLogger(name).setLevel("WARNING")


_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_BYTES = tuple(2.0**power for power in range(12, 34, 2))
_CLIPS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class CountsRequests(Protocol):
    """What counts requests, whatever they are for.

    Attributes:
        requests: answers by route and status.
        rejections: refused requests by the code of `errors.py`.
    """

    requests: prometheus.Counter
    rejections: prometheus.Counter


class Metrics:
    """Counters of one server; each has a registry of its own.

    Attributes:
        requests: answers by route and status.
        rejections: refused requests by the code of `errors.py`.
        upload, queue, decode, inference, total: how long each stage of a request took.
        upload_bytes: size of the bodies.
        batch: clips in a batch.
        decoders_lost: decoding processes that died.
    """

    def __init__(self) -> None:
        # When a counter was made is when the process was, which `process_start_time_seconds` says.
        prometheus.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = prometheus.CollectorRegistry()
        self.requests = prometheus.Counter(
            "stdeploy_requests", "Answers.", ("route", "status"), registry=self.registry
        )
        self.rejections = prometheus.Counter(
            "stdeploy_rejections", "Requests refused.", ("reason",), registry=self.registry
        )
        self.upload = self._seconds("upload", "To receive a video.")
        self.queue = self._seconds("queue", "Of a request in queues.")
        self.decode = self._seconds("decode", "To decode the clips of a video.")
        self.inference = self._seconds("inference", "Of a batch in the network.")
        self.total = self._seconds("request", "From the head of a request to its answer.")
        self.upload_bytes = prometheus.Histogram(
            "stdeploy_upload_bytes", "Size of a body.", buckets=_BYTES, registry=self.registry
        )
        self.batch = prometheus.Histogram(
            "stdeploy_batch_clips", "Clips in a batch.", buckets=_CLIPS, registry=self.registry
        )
        self.decoders_lost = prometheus.Counter(
            "stdeploy_decode_processes_lost",
            "Decoding processes that died.",
            registry=self.registry,
        )
        self.in_progress = self._gauge("requests_in_progress", "Requests in the server.")
        self.ready = self._gauge("ready", "1 where requests are taken.")
        self.live = self._gauge("live", "0 where only a new process can answer.")
        prometheus.ProcessCollector(registry=self.registry)

    def ran(self, clips: int, seconds: float) -> None:
        """A batch has been through the network."""
        self.batch.observe(clips)
        self.inference.observe(seconds)

    def opened(
        self,
        name: str,
        sha256: str,
        runtime: RunsClips,
        *,
        videos_waiting: Callable[[], int],
        clips_waiting: Callable[[], int],
    ) -> None:
        """The network is there; its device and its queues are shown from now on.

        Args:
            name: of the model.
            sha256: of its file.
            runtime: runs it.
            videos_waiting: how many wait to be decoded.
            clips_waiting: how many wait for the network.
        """
        info = prometheus.Gauge(
            "stdeploy_model_info",
            "What answers, and where it really runs.",
            ("model", "sha256", "backend", "device", "precision"),
            registry=self.registry,
        )
        info.labels(
            name,
            sha256,
            runtime.name,
            runtime.device,
            runtime.precision,
        ).set(1)
        self._gauge("queue_videos", "Videos that wait to be decoded.").set_function(videos_waiting)
        self._gauge("queue_clips", "Clips that wait for the network.").set_function(clips_waiting)

    def text(self) -> tuple[bytes, str]:
        """All of it in Prometheus' format, and its content type."""
        return prometheus.generate_latest(self.registry), CONTENT_TYPE_LATEST

    def _seconds(self, stage: str, about: str) -> prometheus.Histogram:
        return prometheus.Histogram(
            f"stdeploy_{stage}_seconds", about, buckets=_SECONDS, registry=self.registry
        )

    def _gauge(self, name: str, about: str) -> prometheus.Gauge:
        return prometheus.Gauge(f"stdeploy_{name}", about, registry=self.registry)
