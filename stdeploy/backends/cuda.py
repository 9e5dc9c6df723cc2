"""CUDA memory, streams and graphs through cuda-bindings, so that a serving host needs no torch."""

import ctypes
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from stdeploy.errors import BackendError
from stdeploy.optional_packages import require


def runtime_api() -> Any:
    """The CUDA runtime API.

    Raises:
        MissingExtraError: cuda-bindings is not installed.
    """
    return require("cuda.bindings.runtime", extra="trt", purpose="running a TensorRT engine")


def checked(result: tuple[Any, ...]) -> Any:
    """The value of a CUDA call, (error, value) or (error,).

    Raises:
        BackendError: the call failed.
    """
    error, *values = result
    if int(error) != 0:
        raise BackendError(f"CUDA refused: {error.name}; see stdeploy doctor")
    return values[0] if values else None


class StagedArray:
    """One array twice: in page-locked memory of the host, and on the GPU.

    Args:
        shape: of the array.
        dtype: of the array.

    Attributes:
        host: the array on the host; copies from and to the GPU go through it.
        device: address on the GPU.
    """

    def __init__(self, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        self._cuda = runtime_api()
        self._bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self._host_address = int(checked(self._cuda.cudaHostAlloc(self._bytes, 0)))
        try:
            self.device = int(checked(self._cuda.cudaMalloc(self._bytes)))
        except BackendError:
            self._cuda.cudaFreeHost(self._host_address)
            raise
        buffer = (ctypes.c_uint8 * self._bytes).from_address(self._host_address)
        self.host: NDArray[Any] = np.ctypeslib.as_array(buffer).view(dtype).reshape(shape)

    def upload(self, stream: int) -> None:
        """Copy to the GPU, in order with the stream."""
        self._copy(self.device, self._host_address, "cudaMemcpyHostToDevice", stream)

    def download(self, stream: int) -> None:
        """Copy to the host, in order with the stream."""
        self._copy(self._host_address, self.device, "cudaMemcpyDeviceToHost", stream)

    def free(self) -> None:
        """Give both back; harmless when called twice. `host` must not be used afterwards."""
        if self.device:
            self._cuda.cudaFree(self.device)
            self._cuda.cudaFreeHost(self._host_address)
            self.device = self._host_address = 0

    def _copy(self, target: int, source: int, kind: str, stream: int) -> None:
        direction = getattr(self._cuda.cudaMemcpyKind, kind)
        checked(self._cuda.cudaMemcpyAsync(target, source, self._bytes, direction, stream))


class Stream:
    """A stream of its own, on which graphs can be captured."""

    def __init__(self) -> None:
        self._cuda = runtime_api()
        self.handle = int(
            checked(self._cuda.cudaStreamCreateWithFlags(self._cuda.cudaStreamNonBlocking))
        )

    def synchronise(self) -> None:
        """Wait until all that was put on the stream is done."""
        checked(self._cuda.cudaStreamSynchronize(self.handle))

    def begin_capture(self) -> None:
        """Record what is put on the stream instead of running it."""
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        checked(self._cuda.cudaStreamBeginCapture(self.handle, mode))

    def end_capture(self) -> Any:
        """What was recorded, ready to be launched."""
        graph = checked(self._cuda.cudaStreamEndCapture(self.handle))
        try:
            return checked(self._cuda.cudaGraphInstantiate(graph, 0))
        finally:
            self._cuda.cudaGraphDestroy(graph)

    def launch(self, graph: Any) -> None:
        """Run a recorded graph."""
        checked(self._cuda.cudaGraphLaunch(graph, self.handle))

    def destroy(self, graph: Any) -> None:
        """Give a recorded graph back."""
        self._cuda.cudaGraphExecDestroy(graph)

    def close(self) -> None:
        """Destroy the stream; harmless when called twice."""
        if self.handle:
            self._cuda.cudaStreamDestroy(self.handle)
            self.handle = 0
