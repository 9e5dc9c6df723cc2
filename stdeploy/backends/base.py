"""Backends: their names, the contract of each, what one says about a host, shared checks.

A new backend is its file and one line in `BACKENDS`.
"""

import abc
import dataclasses
import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, Self, TypeVar, cast, get_args

import numpy as np
from numpy.typing import NDArray

from stdeploy.artifacts.card import ModelCard
from stdeploy.artifacts.frames import Frames
from stdeploy.artifacts.spec import Precision
from stdeploy.errors import (
    BackendError,
    MissingExtraError,
    SpecError,
    check_choice,
    check_count,
)
from stdeploy.optional_packages import pip_install

if TYPE_CHECKING:
    from stdeploy.backends.streams import StreamSession

Status = Literal["works", "absent", "problem", "fact"]
Topic = TypeVar("Topic", bound=str)


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        topic: what it is about.
        status: "works", "absent" (not installed, or no such hardware), "problem" or "fact".
        text: what was found.
        remedy: what to do; empty where nothing has to be done.
    """

    topic: str
    status: Status
    text: str
    remedy: str = ""


def findings(topic: Topic, look: Callable[[Topic], Iterator[Finding]]) -> Iterator[Finding]:
    """What a look finds; an installation that is broken is a finding too.

    Args:
        topic: name of what is looked at.
        look: takes that name, loads the library and tries it.
    """
    try:
        yield from look(topic)
    except MissingExtraError as error:
        yield Finding(topic, "absent", "not installed", error.install)
    except Exception as error:  # a broken installation raises anything
        reason = " ".join(str(error).split())[:200]
        text = f"is installed but broken: {type(error).__name__}: {reason}"
        yield Finding(topic, "problem", text, f"reinstall {topic}")


class Registered(NamedTuple):
    """Where a backend is, told without importing it: a host that serves .onnx files has no torch.

    Attributes:
        runtime: "module:class", a `stdeploy.backends.base.BaseRuntime`.
        runs: suffixes of the artifacts that it opens.
    """

    runtime: str
    runs: tuple[str, ...]


BACKENDS: Mapping[str, Registered] = {
    "torch": Registered("stdeploy.backends.torch:TorchRuntime", runs=(".pt", ".safetensors")),
    "onnxruntime": Registered("stdeploy.backends.onnxruntime:OnnxRuntime", runs=(".onnx",)),
    "openvino": Registered("stdeploy.backends.openvino:OpenVinoRuntime", runs=(".onnx",)),
    "tensorrt": Registered("stdeploy.backends.tensorrt:TensorRtRuntime", runs=(".engine",)),
    "aotinductor": Registered(
        "stdeploy.backends.aotinductor:AotInductorRuntime", runs=(".aot.pt2",)
    ),
}


def runtime_class(backend: str) -> "type[BaseRuntime]":
    """The class of a backend.

    Args:
        backend: a name of the registry.

    Raises:
        MissingExtraError: its file cannot be imported without its library.
    """
    found: type[BaseRuntime] = pkgutil.resolve_name(BACKENDS[backend].runtime)
    return found


# "auto" or a name of the registry, which alone counts when the program runs. Command line and
# server list and check what it allows.
if TYPE_CHECKING:
    Backend = Literal["auto", "torch", "onnxruntime", "openvino", "tensorrt", "aotinductor"]
else:
    Backend = Literal["auto", *BACKENDS]
DeviceType = Literal["cpu", "cuda"]
Device = Literal["auto", "cpu", "cuda"]
# Frames (1, T, H, W, 3) to features (1, C, T), for any T.
Features = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RuntimeOptions:
    """What a user asks of a runtime. What is asked for is given or refused, never replaced.

    Attributes:
        backend: "auto" chooses by the rule of selection.py.
        device: "auto" takes an NVIDIA GPU where the backend and the host have one.
        precision: arithmetic of the convolutions; None takes the artifact's.
        allow_cpu: run on the CPU where the GPU that was asked for cannot be used.
        compile: generate code with torch.compile.
        autotune: while compiling, for minutes, time every kernel there is, and take the fastest.
        planar: run 2D convolutions of stacked frames instead of 3D ones, see
            `stdeploy.models.planar`; an .onnx file has its form from its export.
        fused_relu: of the planar form on a GPU: bias, sum and ReLU within cuDNN's convolution.
        cuda_graphs: on a GPU: replay one CUDA graph per batch size.
        channels_last: on a GPU: convolutions with channels as the last axis in memory; of a backend
            that leaves the choice.
        threads: of the CPU; None leaves it to the backend.
        rebuild: build an engine that does not fit this host again.
        emulate: run a precision that this processor only emulates, slowly; for verifying.
    """

    backend: Backend = "auto"
    device: Device = "auto"
    precision: Precision | None = None
    allow_cpu: bool = False
    compile: bool = False
    autotune: bool = False
    planar: bool = False
    fused_relu: bool = False
    cuda_graphs: bool = False
    channels_last: bool = False
    threads: int | None = None
    rebuild: bool = False
    emulate: bool = False

    def __post_init__(self) -> None:
        check_choice("backend", self.backend, ("auto", *BACKENDS))
        check_choice("device", self.device, get_args(Device))
        check_choice("precision", self.precision, (None, *get_args(Precision)))
        if self.threads is not None:
            check_count("threads", self.threads)


DEFAULT_OPTIONS = RuntimeOptions()


class StreamOptions(NamedTuple):
    """What a user asks of streams. A file that was written for streams has it all.

    Attributes:
        frames_per_call: K, frames of each stream that the network takes at once; None takes what
            the file says, and for fused weights the network's stride in time.
        window: frames that an answer is about; None takes what the file says, and for fused
            weights 64.
    """

    frames_per_call: int | None = None
    window: int | None = None


DEFAULT_STREAM_OPTIONS = StreamOptions()


# Options that are asked for or not, and that not every backend has.
SWITCHES = (
    *("compile", "autotune", "planar", "fused_relu"),
    *("cuda_graphs", "channels_last", "rebuild"),
)


def includes(options: RuntimeOptions, asked: RuntimeOptions) -> bool:
    """Whether options have all that was asked for, and perhaps more."""
    return all(getattr(options, name) for name in SWITCHES if getattr(asked, name))


class RunsClips(Protocol):
    """What classifies clips.

    Attributes:
        name: of the backend.
        device: where it really runs, in words.
        device_type: what that is, for programs.
        precision: arithmetic of its convolutions.
    """

    name: str
    device: str
    device_type: DeviceType
    precision: Precision

    def run(self, frames: Frames) -> NDArray[np.float32]:
        """Map uint8 frames (N, T, H, W, 3), RGB, to logits (N, K).

        Frames that lie on a GPU are taken where they lie, or fetched.

        Raises:
            ArtifactError: shape or type of the frames are not those of the artifact.
        """
        ...

    def close(self) -> None:
        """Release what is held; harmless when called twice."""
        ...


class Runtime(RunsClips, Protocol):
    """An opened artifact that classifies clips; a context manager.

    Attributes:
        stored: type of its weights in the file, where that is coarser than the card says.
    """

    stored: Precision

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class ClosesOnExit:
    """The context-manager half of a runtime."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release what is held."""


class BaseRuntime(ClosesOnExit, abc.ABC):
    """One backend: how it opens and runs an artifact, and what it says about itself.

    What stands here is true of a library that runs files as they were written, on the CPU, and
    only when it is asked for by name; a backend overrides what is different.

    Attributes:
        name: as in the registry.
        library: importable name of the package that it uses.
        extra: of stdeploy, which brings that package; "" where pip has it under its own name.
        precisions: arithmetic that it can run convolutions in.
        devices: where it can run, "cpu" first.
        options: of `SWITCHES` those that it has.
        automatic: whether "auto" may choose it.
    """

    name: str
    library: str
    extra: str = ""
    precisions: tuple[Precision, ...] = ("fp32",)
    devices: tuple[Device, ...] = ("cpu",)
    options: tuple[str, ...] = ()
    automatic: bool = False

    device: str
    device_type: DeviceType = "cpu"
    precision: Precision
    stored: Precision = "fp32"

    @classmethod
    @abc.abstractmethod
    def open(cls, artifact: Path, card: ModelCard, options: RuntimeOptions) -> Self:
        """Load an artifact.

        Args:
            artifact: the file.
            card: its card.
            options: what is asked for: a device of `devices`, and no option that is not among
                `options`.

        Raises:
            ArtifactError: the file does not fit its card or cannot be loaded.
            BackendError: the backend, its device or its precision is not there.
        """

    @abc.abstractmethod
    def run(self, frames: Frames) -> NDArray[np.float32]:
        """Classify clips; see `RunsClips.run`."""

    @classmethod
    def installed(cls) -> bool:
        """Whether its library is here; nothing is imported."""
        return importlib.util.find_spec(cls.library) is not None

    @classmethod
    def sees_gpu(cls) -> bool:
        """Whether it can use an NVIDIA GPU here."""
        return False

    @classmethod
    def ways(cls, card: ModelCard) -> Iterator[RuntimeOptions]:
        """Every way in which it can run an artifact here; `stdeploy bench` measures them.

        Args:
            card: of the artifact.
        """
        if cls.installed() and card.precision in cls.precisions:
            yield RuntimeOptions(backend=cast(Backend, cls.name), device="cpu")

    @classmethod
    def automatic_device(cls, artifact: Path) -> DeviceType:  # noqa: ARG003 - overridden
        """Where "auto" runs an artifact with it."""
        return "cuda" if cls.sees_gpu() or "cpu" not in cls.devices else "cpu"

    @classmethod
    def automatic_ways(cls, card: ModelCard, options: RuntimeOptions) -> tuple[RuntimeOptions, ...]:  # noqa: ARG003 - overridden
        """The ways that "auto" times against each other, which answer alike but for rounding.

        Args:
            card: of the artifact.
            options: what is asked for, with this backend and a device; all of it is in each.
        """
        return (options,)

    @classmethod
    def examine(cls) -> Iterator[Finding]:
        """What works on this host, for `stdeploy doctor`."""
        if not cls.installed():
            yield cls.absent()
            return
        version = getattr(importlib.import_module(cls.library), "__version__", "")
        yield Finding(f"{cls.name}, cpu", "works", f"{version}; {', '.join(cls.precisions)}")

    @classmethod
    def absent(cls) -> Finding:
        """That its library is not installed."""
        remedy = pip_install(cls.extra) if cls.extra else f"pip install {cls.library}"
        return Finding(cls.name, "absent", "not installed", remedy)

    @classmethod
    def open_trunk(cls, model: bytes, like: RunsClips) -> Features:  # noqa: ARG003 - overridden
        """Load a graph of ONNX that ends in features, for dense timelines.

        Args:
            model: takes "frames" and gives one tensor.
            like: a runtime of this backend; the graph runs on its device in its precision.

        Raises:
            SpecError: the backend opens whole artifacts only.
            BackendError: the device cannot be used.
        """
        raise SpecError(
            f"{cls.name} makes no dense timelines; choose another backend, or pass "
            "--timeline windows"
        )

    @classmethod
    def open_streams(
        cls,
        artifact: Path,
        card: ModelCard,  # noqa: ARG003 - overridden
        options: RuntimeOptions,  # noqa: ARG003
        asked: "StreamOptions",  # noqa: ARG003
    ) -> "StreamSession":
        """Load a network that takes streams frame by frame.

        Args:
            artifact: the file.
            card: its card.
            options: as in `open`.
            asked: of the streams.

        Raises:
            SpecError: the backend runs whole clips only.
        """
        raise SpecError(
            f"{cls.name} runs no streams, which {artifact.name!r} is for; choose another backend"
        )

    @classmethod
    def as_written(cls, artifact: Path, card: ModelCard, options: RuntimeOptions) -> Precision:
        """The precision of a file, for backends that cannot change it.

        Raises:
            BackendError: another one was asked for, or the backend does not have it.
        """
        if options.precision not in (None, card.precision):
            raise BackendError(
                f"{cls.name} runs {artifact.name!r} in {card.precision}, as it was written; run: "
                f"stdeploy export --precision {options.precision}"
            )
        if card.precision not in cls.precisions:
            raise BackendError(
                f"{cls.name} has no {card.precision}, in which {artifact.name!r} was written; "
                f"choose another backend, or a file in {' or '.join(cls.precisions)}"
            )
        return card.precision
