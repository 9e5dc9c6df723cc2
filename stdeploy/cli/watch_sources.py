"""stdeploy watch of many sources: a table on a terminal, lines of JSON elsewhere, a page."""

import contextlib
import dataclasses
import datetime
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.live import Live
from rich.table import Table
from rich.text import Text

from stdeploy.backends.base import RuntimeOptions
from stdeploy.cli.console import counted, note, out
from stdeploy.cli.watch_events import open_events
from stdeploy.errors import SpecError, VideoError
from stdeploy.optional_packages import require

if TYPE_CHECKING:
    from stdeploy.events.settings import EventSettings
    from stdeploy.inference.live_sources import LiveSources, SourceAnswer, SourceStatus
    from stdeploy.serve.live_server import LiveServer
    from stdeploy.video.live_reader import LiveSource

_DEFAULT_HOST = "127.0.0.1"
_REFRESHES = 4  # of the table, a second
_PICTURE_SECONDS = 0.5  # between two pictures of a source on the page
_PICTURE_PX = 480
_STYLES = {"live": "green", "waiting": "yellow", "stalled": "red", "broken": "red", "ended": "dim"}


def address_of(http: str) -> tuple[str, int]:
    """Host and port of --http.

    Raises:
        SpecError: it is none.

    >>> address_of("8000"), address_of("0.0.0.0:80"), address_of("[::1]:8000")
    (('127.0.0.1', 8000), ('0.0.0.0', 80), ('::1', 8000))
    """
    host, _, port = http.rpartition(":")
    inner = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    wrong = (":" in inner) is not host.startswith("[") or (http != port and not inner)
    if wrong or not (port.isascii() and port.isdecimal()) or int(port) > 65535:
        raise SpecError(
            f"--http {http!r} is no address; a port (8000) or a host with one (0.0.0.0:8000, "
            "[::1]:8000) is allowed"
        )
    return inner or _DEFAULT_HOST, int(port)


def watch_many(
    sources: Sequence["LiveSource"],
    artifact: Path,
    *,
    hop: float,
    top_k: int,
    as_json: bool,
    batch: int | None,
    http: str | None,
    events: "EventSettings | None",
    runtime_options: RuntimeOptions,
) -> None:
    """Answer about many sources until all have ended, or Ctrl-C.

    Args:
        sources: which.
        artifact: what answers.
        hop: seconds from one answer about a source to the next, where it says nothing.
        top_k: labels shown.
        as_json: print lines on a terminal, too.
        batch: sources in the network at once; None leaves that to the device.
        http: where the page is; None for none.
        events: what [events] says; None for nothing.
        runtime_options: of the backend.

    Raises:
        VideoError: some sources ended without an answer.
    """
    from stdeploy.inference.classifier import Classifier
    from stdeploy.inference.live_sources import Hooks
    from stdeploy.video.live_worker import Pictures

    shown = _Shown(top_k, table=out.is_terminal and not as_json)
    with contextlib.ExitStack() as held:
        server = None if http is None else _server(http, held)
        classifier = held.enter_context(Classifier.open(artifact, runtime_options=runtime_options))
        runtime = classifier.runtime
        note(f"{artifact}, {runtime.name} on {runtime.device} in {runtime.precision}")
        hooks = Hooks(report=shown.report)
        if server is not None:
            hooks = dataclasses.replace(hooks, picture=server.picture, batch=server.batch)
        pictures = None if server is None else Pictures(_PICTURE_SECONDS, _PICTURE_PX)
        watched = None
        if events is not None:
            hops = {s.shown: hop if s.hop_seconds is None else s.hop_seconds for s in sources}
            labels = classifier.card.labels
            watched = held.enter_context(
                open_events(events, labels=labels, hops=hops, say=shown.say, server=server)
            )
            hooks, pictures = watched.hooks(hooks), watched.pictures(pictures)
        live = classifier.watch_all(
            sources, hop_seconds=hop, batch=batch, pictures=pictures, hooks=hooks
        )
        if watched is not None:
            watched.opened(live)
        note(
            f"waiting for {counted(len(sources), 'source')}; a clip spans "
            f"{classifier.card.clip.span_seconds:.1f} s; Ctrl-C ends"
        )
        if server is not None:
            server.opened(live, runtime, artifact.stem)
            note(f"page and metrics at {server.url}")
        try:
            with live, shown.showing(live):
                for answer in live:
                    shown.answer(answer)
        except KeyboardInterrupt:
            note("ended")
            return
        if errors := live.errors():
            for error in errors:
                note(str(error))
            raise VideoError(f"{counted(len(errors), 'source')} ended without an answer")


def _server(http: str, held: contextlib.ExitStack) -> "LiveServer":
    host, port = address_of(http)
    for module in ("fastapi", "fastapi_offline", "uvicorn", "pydantic_settings"):
        require(module, extra="serve", purpose="the page of --http")
    from stdeploy.serve.live_server import LiveServer

    return held.enter_context(LiveServer(host, port))


class _Shown:
    """What people see.

    Args:
        top_k: labels of each source.
        table: one that is kept up to date, instead of a line for each answer.
    """

    def __init__(self, top_k: int, *, table: bool) -> None:
        self._top_k = top_k
        self._table = table
        self._say: Callable[[str], None] = note

    def report(self, source: str, text: str) -> None:
        """Something happened to a source."""
        self._say(f"{source}: {text}")

    def say(self, text: str) -> None:
        """Something happened beside the sources."""
        self._say(text)

    @contextlib.contextmanager
    def showing(self, live: "LiveSources") -> Iterator[None]:
        """Keep the table on the terminal meanwhile, if there is to be one."""
        if not self._table:
            yield
            return
        with Live(
            get_renderable=lambda: table_of(live.statuses(), self._top_k),
            console=out,
            refresh_per_second=_REFRESHES,
        ) as shown:

            def say(text: str) -> None:
                shown.console.print(text, style="dim", markup=False, soft_wrap=True)

            self._say = say
            try:
                yield
            finally:
                self._say = note

    def answer(self, answer: "SourceAnswer") -> None:
        """One more."""
        if not self._table:
            # In one piece: a thread may write events there, too.
            print(json.dumps(record_of(answer, self._top_k)) + "\n", end="", flush=True)


def record_of(answer: "SourceAnswer", top_k: int) -> dict[str, Any]:
    """A line for programs: plain data, ready for JSON."""
    when = datetime.datetime.now(datetime.UTC)
    return {
        "source": answer.source,
        "time": when.isoformat(timespec="milliseconds"),
        "stream_seconds": round(answer.stream_seconds, 3),
        "lag_seconds": round(answer.lag_seconds, 3),
        "predictions": [
            {"label": label, "score": round(score, 6)} for label, score in answer.top(top_k)
        ],
    }


def table_of(statuses: Sequence["SourceStatus"], top_k: int) -> Table:
    """How all sources do."""
    table = Table(expand=True)
    table.add_column("source", no_wrap=True, overflow="ellipsis", ratio=2)
    table.add_column("state", no_wrap=True, min_width=7)
    for name in ("lag", "frames", "dropped", "again"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("now", no_wrap=True, overflow="ellipsis", ratio=3)
    for status in statuses:
        lag = "" if status.lag_seconds is None else f"{status.lag_seconds:.2f} s"
        numbers = (status.frames, status.dropped, status.reconnects)
        answer = status.answer
        now = "" if answer is None else "  ".join(f"{s:.2f} {n}" for n, s in answer.top(top_k))
        table.add_row(
            Text(status.source),
            Text(status.state, style=_STYLES[status.state]),
            lag,
            *(f"{number:,}" for number in numbers),
            Text(now if status.state == "live" else status.note or now),
        )
    return table
