"""Options that several verbs share: which backend runs, where, and in which precision."""

import functools
import inspect
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from stdeploy.backends.base import Backend, RuntimeOptions


class DeviceName(StrEnum):
    """Where to run."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class InputName(StrEnum):
    """What an exported file takes."""

    UINT8 = "uint8-nthwc"
    FLOAT = "float-ncthw"


class FormName(StrEnum):
    """How an exported graph computes in time."""

    CONV3D = "conv3d"
    PLANAR = "planar"


class PrecisionName(StrEnum):
    """Arithmetic of the convolutions."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"


class ReaderName(StrEnum):
    """Libraries that decode videos."""

    AUTO = "auto"
    OPENCV = "opencv"
    PYAV = "pyav"
    NVDEC = "nvdec"


ModelOption = Annotated[
    Path | None,
    typer.Option(
        "--model", "-m", help="Default: the newest *.onnx; on GPU hosts also *.engine, *.aot.pt2."
    ),
]
ReaderOption = Annotated[
    ReaderName,
    typer.Option(
        "--reader",
        help="auto: OpenCV, and PyAV for what OpenCV cannot read; nvdec: an NVIDIA GPU.",
    ),
]
# How a network runs, by the fields of `RuntimeOptions`: kind of the option, and its default.
_RUNTIME: dict[str, tuple[Any, Any]] = {
    "backend": (
        Annotated[Backend, typer.Option("--backend", help="auto: see stdeploy doctor.")],
        "auto",
    ),
    "device": (
        Annotated[
            DeviceName, typer.Option("--device", help="cuda is refused where it cannot be had.")
        ],
        DeviceName.AUTO,
    ),
    "precision": (
        Annotated[
            PrecisionName | None,
            typer.Option("--precision", help="Default: the artifact's. Some backends offer more."),
        ],
        None,
    ),
    "allow_cpu": (
        Annotated[
            bool, typer.Option("--allow-cpu", help="Run on the CPU where the GPU cannot be used.")
        ],
        False,
    ),
    "compile": (
        Annotated[bool, typer.Option("--compile", help="Generate code, with torch.compile.")],
        False,
    ),
    "autotune": (
        Annotated[
            bool,
            typer.Option("--autotune", help="With --compile: time every kernel, for minutes."),
        ],
        False,
    ),
    "planar": (
        Annotated[
            bool,
            typer.Option("--planar", help="Of torch: 2D convolutions of stacked frames, no 3D."),
        ],
        False,
    ),
    "fused_relu": (
        Annotated[
            bool,
            typer.Option(
                "--fused-relu", help="With --planar on a GPU: sum and ReLU within convolutions."
            ),
        ],
        False,
    ),
    "cuda_graphs": (
        Annotated[bool, typer.Option("--cuda-graphs", help="On a GPU: one graph per batch size.")],
        False,
    ),
    "channels_last": (
        Annotated[
            bool,
            typer.Option("--channels-last", help="Of onnxruntime on a GPU: memory as NTHWC."),
        ],
        False,
    ),
    "threads": (
        Annotated[
            int | None,
            typer.Option("--threads", min=1, help="CPU threads. Default: the backend's."),
        ],
        None,
    ),
    "rebuild": (
        Annotated[
            bool,
            typer.Option("--rebuild", help="Build an engine that does not fit this host again."),
        ],
        False,
    ),
}


def with_runtime_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of how a network runs, which it takes as one object.

    Args:
        command: its last parameter, a keyword, is `runtime_options: RuntimeOptions`.
    """

    @functools.wraps(command)
    def typed(**arguments: Any) -> None:
        asked: dict[str, Any] = {name: arguments.pop(name) for name in _RUNTIME}
        for name, value in asked.items():
            if isinstance(value, StrEnum):
                asked[name] = value.value
        command(**arguments, runtime_options=RuntimeOptions(**asked))

    own = inspect.signature(command)
    parameters = [each for name, each in own.parameters.items() if name != "runtime_options"]
    parameters += [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=default)
        for name, (kind, default) in _RUNTIME.items()
    ]
    # typer reads both.
    typed.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    typed.__annotations__ = {each.name: each.annotation for each in parameters}
    return typed
