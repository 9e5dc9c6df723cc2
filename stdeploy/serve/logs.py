"""Logs: a line of JSON each, or text on a terminal; each with the id of its request."""

import collections
import contextvars
import logging
import math
import sys
import time
from collections.abc import Callable
from typing import Literal

from pythonjsonlogger.json import JsonFormatter

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
