"""Options that several verbs share: which backend runs, where, and in which precision."""

import inspect
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import typer
from typer.models import OptionInfo

from stdeploy.runtime.base import Backend, RuntimeOptions

# What stands for a value in the help; short, so that options and their text have room in 80
# columns.
METAVARS: Mapping[Any, str] = {
    bool: "",
    int: "<n>",
    float: "<x>",
    Path: "<path>",
    str: "<text>",
}


class DeviceName(StrEnum):
    """Where to run."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


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


ModelOption = Annotated[
    Path | None,
    typer.Option("--model", "-m", help="Default: the newest *.onnx; on GPU hosts also *.engine."),
]
ReaderOption = Annotated[
    ReaderName,
    typer.Option("--reader", help="auto: OpenCV, and PyAV for what OpenCV cannot read."),
]
BackendOption = Annotated[Backend, typer.Option("--backend", help="auto: see stdeploy doctor.")]
DeviceOption = Annotated[
    DeviceName, typer.Option("--device", help="cuda is refused where it cannot be had.")
]
PrecisionOption = Annotated[
    PrecisionName | None,
    typer.Option("--precision", help="Default: the artifact's. Some backends offer more."),
]
AllowCpuOption = Annotated[
    bool, typer.Option("--allow-cpu", help="Run on the CPU where the GPU cannot be used.")
]
CompileOption = Annotated[
    bool, typer.Option("--compile", help="Generate code, with torch.compile.")
]
CudaGraphsOption = Annotated[
    bool, typer.Option("--cuda-graphs", help="On a GPU: one graph per batch size.")
]
ThreadsOption = Annotated[
    int | None, typer.Option("--threads", min=1, help="CPU threads. Default: the backend's.")
]
RebuildOption = Annotated[
    bool, typer.Option("--rebuild", help="Build an engine that does not fit this host again.")
]


def runtime_options(
    backend: Backend,
    device: DeviceName,
    precision: PrecisionName | None,
    *,
    allow_cpu: bool,
    compiled: bool,
    cuda_graphs: bool,
    threads: int | None,
    rebuild: bool,
) -> RuntimeOptions:
    """What the user typed, as the library takes it."""
    return RuntimeOptions(
        backend=backend,
        device=device.value,
        precision=precision.value if precision else None,
        allow_cpu=allow_cpu,
        compile=compiled,
        cuda_graphs=cuda_graphs,
        threads=threads,
        rebuild=rebuild,
    )


def tidy_help(verbs: typer.Typer) -> None:
    """Let the help say <n> where typer would say <int range>, and fill its lines once only.

    Typer keeps the line breaks of a docstring, then breaks lines where the terminal ends.
    """
    for verb in verbs.registered_commands:
        paragraphs = (inspect.getdoc(verb.callback) or "").split("\n\n")
        verb.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
        for hint in get_type_hints(verb.callback, include_extras=True).values():
            for info in getattr(hint, "__metadata__", ()):
                if isinstance(info, OptionInfo) and info.metavar is None:
                    info.metavar = METAVARS.get(_kind(hint))


def _kind(hint: Any) -> Any:
    """The type of a value, without what is around it: Annotated, None, list."""
    inner = get_args(hint)
    return _kind(inner[0]) if inner else hint
