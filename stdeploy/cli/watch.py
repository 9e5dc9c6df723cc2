"""stdeploy watch: what happens now, before a camera or in a stream?"""

import contextlib
import dataclasses
import datetime
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from stdeploy.artifacts.files import ONNX_SUFFIX
from stdeploy.backends.base import RuntimeOptions
from stdeploy.cli.console import note, out
from stdeploy.cli.options import ModelOption, with_runtime_options
from stdeploy.errors import SpecError, StdeployError, VideoError

if TYPE_CHECKING:
    from stdeploy.inference.live_answers import LiveAnswer

_HOP_SECONDS = 0.5
_NO_FRAME = (
    "the pipe ended without a frame; an .mp4 whose index lies at its end cannot be read from a "
    "pipe: use MPEG-TS or Matroska"
)


_Sources = Annotated[
    list[str] | None,
    typer.Argument(
        help="Number of a camera, a URL (rtsp, http, udp, ...), - for a pipe, or the path of a "
        "file, which is played in real time.",
        metavar="SOURCE",
        show_default=False,
    ),
]
_List = Annotated[
    Path | None,
    typer.Option("--sources", help="A TOML file of sources with names.", show_default=False),
]
_Batch = Annotated[
    int | None,
    typer.Option(
        "--batch",
        min=1,
        help="Sources in the network at once, at most. Default: 8 on a GPU, 1 on a CPU.",
        show_default=False,
    ),
]
_Http = Annotated[
    str | None,
    typer.Option(
        "--http",
        metavar="[HOST:]PORT",
        help="Show all sources on a page, with metrics and probes. Default host: 127.0.0.1.",
        show_default=False,
    ),
]
_TopK = Annotated[int, typer.Option("--top-k", "-k", min=1, help="Labels each time.")]
_Hop = Annotated[
    float | None,
    typer.Option(
        "--hop",
        min=0,
        help="Seconds between answers, at least. 0: without pause. Default: 0.5.",
        show_default=False,
    ),
]
_AsJson = Annotated[bool, typer.Option("--json", help="One line of JSON each time, for programs.")]
_Reconnect = Annotated[
    bool | None,
    typer.Option(
        "--reconnect/--no-reconnect",
        help="Open a source again that breaks off or is not there yet. Default: all but pipes and "
        "files, and a single one that was never there 5 times.",
        show_default=False,
    ),
]


@with_runtime_options
def command(
    sources: _Sources = None,
    source_list: _List = None,
    model: ModelOption = None,
    top_k: _TopK = 3,
    hop: _Hop = None,
    as_json: _AsJson = False,
    reconnect: _Reconnect = None,
    batch: _Batch = None,
    http: _Http = None,
    *,
    runtime_options: RuntimeOptions,
) -> None:
    """Classify live video: the newest frames win, whatever comes in meanwhile is left out.

    Each line has the lag: seconds from the arrival of the last frame to its answer. Several
    sources share one network; each is read by a process of its own, and the one that waits
    longest is answered first. They are shown as a table on a terminal, and as lines of JSON
    elsewhere. Ctrl-C ends it.
    """
    from stdeploy.cli.video_arguments import default_artifact

    named = sources or []
    one = source_list is None and http is None and len(named) == 1
    if one and not Path(named[0]).is_file() and not _takes_streams(model):
        if batch is not None:
            raise SpecError("--batch is for several sources; leave it out")
        _watch_one(
            named[0],
            model,
            hop=_HOP_SECONDS if hop is None else hop,
            top_k=top_k,
            as_json=as_json,
            reconnect=reconnect,
            runtime_options=runtime_options,
        )
        return
    from stdeploy.cli.watch_events import event_settings
    from stdeploy.cli.watch_sources import address_of, watch_many
    from stdeploy.inference.source_list import read_source_list
    from stdeploy.video.live_reader import LiveSource, check_names

    listed, events = None, None
    if source_list is not None:
        listed = read_source_list(source_list)
        events = event_settings(listed, source_list)
    chosen = [LiveSource(address=each, reconnect=reconnect) for each in named]
    for each in listed.sources if listed else ():
        asked = reconnect if each.reconnect is None and not each.is_pipe else each.reconnect
        chosen.append(dataclasses.replace(each, reconnect=asked))
    if not chosen:
        raise SpecError(
            "there is no source to watch: name one or more (0, rtsp://..., -), or a file of them "
            "with --sources"
        )
    check_names(chosen)
    if http is not None:
        address_of(http)  # refuses what is none before anything is opened
    if hop is None:
        hop = listed.hop_seconds if listed and listed.hop_seconds is not None else _HOP_SECONDS
    watch_many(
        chosen,
        model or default_artifact(),
        hop=hop,
        top_k=top_k,
        as_json=as_json,
        batch=batch,
        http=http,
        events=events,
        runtime_options=runtime_options,
    )


def _takes_streams(model: Path | None) -> bool:
    """Whether an artifact takes a stream frame by frame; whatever else is wrong is said later."""
    from stdeploy.artifacts.card import read_card
    from stdeploy.cli.video_arguments import default_artifact

    try:
        artifact = model or default_artifact()
        return artifact.suffix == ONNX_SUFFIX and read_card(artifact).stream is not None
    except StdeployError:
        return False


def _watch_one(
    source: str,
    model: Path | None,
    *,
    hop: float,
    top_k: int,
    as_json: bool,
    reconnect: bool | None,
    runtime_options: RuntimeOptions,
) -> None:
    from stdeploy.cli.video_arguments import default_artifact
    from stdeploy.inference.classifier import Classifier
    from stdeploy.inference.live_answers import NoFrameError
    from stdeploy.video.live_source import STANDARD_INPUT, NoStreamError, opener

    opener(source, files=True)  # refuses what is no source before anything is opened
    artifact = model or default_artifact()
    named = f"camera {source}" if source.isdecimal() else source
    if source == STANDARD_INPUT:
        named = "standard input"
    with Classifier.open(artifact, runtime_options=runtime_options) as classifier:
        runtime = classifier.runtime
        note(f"{artifact}, {runtime.name} on {runtime.device} in {runtime.precision}")
        note(
            f"waiting for {named}; a clip spans {classifier.card.clip.span_seconds:.1f} s; "
            "Ctrl-C ends"
        )
        answers = classifier.watch(source, hop_seconds=hop, reconnect=reconnect, report=note)
        try:
            with contextlib.closing(answers):
                for answer in answers:
                    _print(answer, top_k, as_json=as_json)
        except KeyboardInterrupt:
            note("ended")
        except (NoFrameError, NoStreamError) as error:
            if source == STANDARD_INPUT:
                raise VideoError(_NO_FRAME) from error
            if isinstance(error, NoFrameError):
                raise
            advice = _cameras_here() if source.isdecimal() else "is its address right?"
            waiting = "" if reconnect is False else "; --reconnect waits for it without end"
            raise VideoError(f"{named}: {error}; {advice}{waiting}") from error


def _cameras_here() -> str:
    """Which cameras this machine has."""
    there = sorted(str(path) for path in Path("/dev").glob("video*"))
    if not there:
        return "this machine has no camera (/dev/video*)"
    return (
        f"this machine has {', '.join(there)}; may you read it, and is no other program using it?"
    )


def _print(answer: "LiveAnswer", top_k: int, *, as_json: bool) -> None:
    now = datetime.datetime.now(datetime.UTC)
    best = answer.top(top_k)
    if as_json:
        record = {
            "time": now.isoformat(timespec="milliseconds"),
            "stream_seconds": round(answer.stream_seconds, 3),
            "lag_seconds": round(answer.lag_seconds, 3),
            "predictions": [{"label": label, "score": round(score, 6)} for label, score in best],
        }
        print(json.dumps(record), flush=True)
        return
    answers = [f"{score:.3f} {label}" for label, score in best]
    found = "   ".join(answers)
    when = f"{now.astimezone():%H:%M:%S}  lag {answer.lag_seconds:4.1f} s"
    if not out.is_terminal:
        out.print(f"{when}  {found}", markup=False, soft_wrap=True)
        return
    line = Table.grid(padding=(0, 2))
    line.add_column(no_wrap=True)
    fits = cell_len(f"{when}  {found}") <= out.width
    line.add_row(when, Text(found if fits else "\n".join(answers)))
    out.print(line)
