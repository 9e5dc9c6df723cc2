"""Options that several verbs share: which backend runs, where, and in which precision."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from stdeploy.backends.base import Backend, RuntimeOptions


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
