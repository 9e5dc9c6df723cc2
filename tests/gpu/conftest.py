"""The GPU; in a rehearsal of `make gpu-check` the CPU, so that every line of the tests is run."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from typing import Literal

import pytest
import torch

from stdeploy.artifacts.spec import Precision
from stdeploy.backends.base import RuntimeOptions
from stdeploy.backends.torch import TorchRuntime

REHEARSAL = bool(os.environ.get("STDEPLOY_REHEARSE_GPU"))


@dataclasses.dataclass(frozen=True)
class Gpu:
    """What tests run on."""

    device: Literal["cpu", "cuda"]

    @property
    def name(self) -> str:
        """Part of what a runtime on torch says that it runs on."""
        return "CPU" if REHEARSAL else torch.cuda.get_device_name()

    @property
    def onnxruntime(self) -> str:
        """Part of what one on ONNX Runtime says."""
        return "CPU" if REHEARSAL else "CUDAExecutionProvider"

    def precision(self, wanted: Precision) -> Precision:
        """The same, or another half type where a CPU has none."""
        return "bf16" if REHEARSAL and wanted == "fp16" else wanted

    def torch(self, wanted: Precision, **options: bool) -> RuntimeOptions:
        """Options of a runtime on torch; a CPU has no CUDA graphs."""
        graphs = options.pop("cuda_graphs", False) and not REHEARSAL
        precision = self.precision(wanted)
        return RuntimeOptions(
            backend="torch",
            device=self.device,
            precision=precision,
            cuda_graphs=graphs,
            **options,
        )

    def onnx(self, **options: bool) -> RuntimeOptions:
        """Options of a runtime on ONNX Runtime; a CPU has neither layouts nor CUDA graphs."""
        if REHEARSAL:
            options = dict.fromkeys(options, False)
        return RuntimeOptions(backend="onnxruntime", device=self.device, **options)

    def allocated_bytes(self) -> int:
        """Memory of the GPU that torch has given away."""
        return 0 if REHEARSAL else torch.cuda.memory_allocated()

    @contextlib.contextmanager
    def without_memory(self, runtime: TorchRuntime) -> Iterator[None]:
        """Leave torch no memory that it does not have already."""
        if REHEARSAL:
            graph = runtime._graph
            runtime._graph = _no_memory
            yield
            runtime._graph = graph
            return
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(1e-6)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)


def _no_memory(_frames: torch.Tensor) -> torch.Tensor:
    raise torch.cuda.OutOfMemoryError("CUDA out of memory")


@pytest.fixture(scope="session")
def gpu() -> Gpu:
    return Gpu("cpu" if REHEARSAL else "cuda")
