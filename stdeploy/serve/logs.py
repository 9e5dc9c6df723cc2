"""Logs: a line of JSON each, or text on a terminal; each with the id of its request."""

import contextvars
import logging
import sys
from typing import Literal

from pythonjsonlogger.json import JsonFormatter

request_id: contextvars.ContextVar[str | None] = contextvars.ContextVar("request_id", default=None)


class _WithRequest(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        if not hasattr(record, "request_id"):
            record.request_id = request_id.get()
        return True


class _Text(logging.Formatter):
    """The message, then what else a record carries, as name=value."""

    _USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

    def format(self, record: logging.LogRecord) -> str:
        more = " ".join(
            f"{name}={value}"
            for name, value in vars(record).items()
            if name not in self._USUAL and value is not None
        )
        return f"{super().format(record)}  {more}".rstrip()


def set_up(form: Literal["auto", "json", "text"], level: str) -> None:
    """Write the logs of this program and its server to standard error.

    Args:
        form: "auto" is text where standard error is a terminal.
        level: of the least important record that is written.
    """
    text = form == "text" or (form == "auto" and sys.stderr.isatty())
    formatter: logging.Formatter = (
        _Text("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S")
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
    for name in ("stdeploy", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(level.upper())
        logger.propagate = False
    # A line for each request is written by `middleware.py`, with more in it.
    logging.getLogger("uvicorn.access").handlers = []
    logging.getLogger("uvicorn.error").setLevel("WARNING")
