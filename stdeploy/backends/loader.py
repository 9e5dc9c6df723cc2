"""From an artifact to a runtime that has answered the golden clip."""

import dataclasses
import logging
import time
from pathlib import Path

from stdeploy.artifacts.card import ModelCard, ParityRow, read_card
from stdeploy.artifacts.files import ONNX_SUFFIX, StrPath, as_path
from stdeploy.artifacts.golden import check_golden, golden_clip
from stdeploy.artifacts.parity import RUNTIME_TOLERANCE
from stdeploy.backends.base import (
    DEFAULT_OPTIONS,
    DEFAULT_STREAM_OPTIONS,
    SWITCHES,
    BaseRuntime,
    Runtime,
    RuntimeOptions,
    StreamOptions,
    runtime_class,
)
from stdeploy.backends.selection import backends_for, candidates, remember, remembered
from stdeploy.backends.streams import ClipsOfStreams, StreamRuntime, written_stream
from stdeploy.errors import BackendError, SpecError, StdeployError

_log = logging.getLogger(__name__)

_TRIALS = 2


def open_runtime(
    artifact: Path, card: ModelCard | None = None, options: RuntimeOptions = DEFAULT_OPTIONS
) -> Runtime:
    """Open an artifact with the backend asked for, and make it answer the golden clip.

    Where "auto" leaves several ways, all are opened and timed once, and the fastest is remembered;
    see selection.py.

    Args:
        artifact: a .onnx, .engine, .fused.safetensors or .pt file.
        card: its card, if it has been read already.
        options: what is asked for.

    Raises:
        ArtifactError: it cannot be used; ParityError where its answer is wrong.
        BackendError: the backend, its device or its precision is not there.
    """
    backends_for(artifact)  # first: a file of no known kind has no card to read
    card = read_card(artifact) if card is None else card
    possible = candidates(artifact, card, options)
    if len(possible) > 1 and (known := remembered(artifact, options, possible)):
        possible = (known,)
    if len(possible) == 1:
        return _open_proven(artifact, card, possible[0])
    return _fastest(artifact, card, options, possible)


def open_backend(artifact: Path, card: ModelCard, options: RuntimeOptions) -> Runtime:
    """Open an artifact with one backend; the golden clip is left to the caller.

    Args:
        artifact: the file.
        card: its card.
        options: with a backend and a device, not "auto".

    Raises:
        SpecError: an option that the backend does not have.
        ArtifactError: see `BaseRuntime.open`.
        BackendError: likewise, or the backend does not run on that device.
    """
    backend = runtime_class(options.backend)
    if card.stream is not None:
        session = backend.open_streams(
            artifact, card, _checked(backend, options), DEFAULT_STREAM_OPTIONS
        )
        return ClipsOfStreams(StreamRuntime(session, card))
    return backend.open(artifact, card, _checked(backend, options))


def open_streams(
    artifact: StrPath,
    card: ModelCard | None = None,
    options: RuntimeOptions = DEFAULT_OPTIONS,
    asked: StreamOptions = DEFAULT_STREAM_OPTIONS,
) -> StreamRuntime:
    """Open an artifact for streams, and make it answer the golden clip.

    Args:
        artifact: a .stream.onnx file; or fused weights, whose streaming form torch makes.
        card: its card, if it has been read already.
        options: what is asked for.
        asked: of the streams.

    Raises:
        SpecError: a file that takes whole clips, or was written for other numbers, or a network
            that cannot be streamed.
        ArtifactError: it cannot be used; ParityError where its answer is wrong.
        BackendError: the backend, its device or its precision is not there.
    """
    artifact = as_path(artifact, "an artifact")
    backends_for(artifact)
    card = read_card(artifact) if card is None else card
    if card.stream is not None:
        written_stream(card, asked)
        opened = open_runtime(artifact, card, options)
        assert isinstance(opened, ClipsOfStreams)
        return opened.streams
    if artifact.name.endswith(ONNX_SUFFIX):
        written_stream(card, asked)  # says why not
    (way, *_) = candidates(artifact, card, options)
    backend = runtime_class(way.backend)
    session = backend.open_streams(artifact, card, _checked(backend, way), asked)
    runtime = StreamRuntime(session, card)
    try:
        replay_golden(ClipsOfStreams(runtime), card, source=artifact.name)
    except BaseException:
        runtime.close()
        raise
    return runtime


def replay_golden(runtime: Runtime, card: ModelCard, *, source: str) -> float:
    """Let a runtime classify the golden clip of a card.

    An artifact in its own precision is held to what it answered where it was verified; one that
    runs in another, to what its parent answered.

    Args:
        runtime: an opened one.
        card: holds the seed and the right answer.
        source: the artifact, for the error.

    Returns:
        Relative error.

    Raises:
        ParityError: the answer is wrong.
    """
    frames = golden_clip(card.golden.seed, card.clip.frames_shape)[None]
    where, expected, cause = f"{source!r} on {runtime.name} ({runtime.device})", None, None
    if runtime.precision == card.precision:
        expected = card.golden.verified
    else:
        where += f" in {runtime.precision}"
        cause = (
            f"this network loses more to {runtime.precision} than that, or a kernel of this "
            f"runtime is wrong; run it in {card.precision}"
        )
    return check_golden(
        card.golden.logits if expected is None else expected,
        runtime.run(frames)[0],
        magnitude=card.golden.magnitude,
        tolerance=_tolerance(runtime),
        source=where,
        cause=cause,
    )


def golden_row(runtime: Runtime, card: ModelCard, *, source: str) -> ParityRow:
    """Replay the golden clip, and put it as a row of a card.

    Raises:
        ParityError: the answer is wrong.
    """
    return ParityRow(
        check=f"{runtime.name}, golden clip",
        precision=runtime.precision,
        error=replay_golden(runtime, card, source=source),
        tolerance=_tolerance(runtime),
        detail=runtime.device,
    )


def _tolerance(runtime: Runtime) -> float:
    return max(RUNTIME_TOLERANCE[name] for name in (runtime.precision, runtime.stored))


def _checked(backend: type[BaseRuntime], options: RuntimeOptions) -> RuntimeOptions:
    """Options with nothing in them that a backend does not have."""
    for name in SWITCHES:
        if getattr(options, name) and name not in backend.options:
            flag = name.replace("_", "-")
            raise SpecError(
                f"{backend.name} has no --{flag}; leave it out or choose another backend"
            )
    if options.device in backend.devices:
        return options
    if options.device == "cpu":
        raise BackendError(
            f"{backend.name} runs on NVIDIA GPUs only; give an .onnx file for the CPU"
        )
    if not options.allow_cpu:
        raise BackendError(f"{backend.name} runs on the CPU only; leave --device cuda out")
    return dataclasses.replace(options, device="cpu")


def _open_proven(artifact: Path, card: ModelCard, options: RuntimeOptions) -> Runtime:
    runtime = open_backend(artifact, card, options)
    try:
        replay_golden(runtime, card, source=artifact.name)
    except BaseException:
        runtime.close()
        raise
    return runtime


def _fastest(
    artifact: Path,
    card: ModelCard,
    options: RuntimeOptions,
    possible: tuple[RuntimeOptions, ...],
) -> Runtime:
    """Open all, keep those that answer rightly, time them in turn, close all but the fastest."""
    opened: dict[RuntimeOptions, Runtime] = {}
    errors: list[Exception] = []
    for way in possible:
        try:
            opened[way] = _open_proven(artifact, card, way)
        except (StdeployError, ImportError) as error:
            errors.append(error)
    if not opened:
        raise errors[0]
    for reason in errors:
        _log.warning("not used: %s", reason)
    frames = golden_clip(card.golden.seed, card.clip.frames_shape)[None]
    seconds: dict[RuntimeOptions, float] = dict.fromkeys(opened, float("inf"))
    for _ in range(_TRIALS if len(opened) > 1 else 0):
        for way, runtime in opened.items():
            start = time.perf_counter()
            runtime.run(frames)
            seconds[way] = min(seconds[way], time.perf_counter() - start)
    if len(opened) > 1:
        remember(artifact, options, seconds)
    fastest = min(seconds, key=lambda way: seconds[way])
    for way, runtime in opened.items():
        if way != fastest:
            runtime.close()
    return opened[fastest]
