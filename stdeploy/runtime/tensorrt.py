"""TensorRT and TensorRT-RTX engines on an NVIDIA GPU, without torch."""

import itertools
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from stdeploy.card import ModelCard
from stdeploy.engine.flavour import Flavour, import_flavour, messages_of
from stdeploy.engine.write import rebuild
from stdeploy.errors import ArtifactError, BackendError
from stdeploy.hardware import Gpu, gpus
from stdeploy.runtime.base import (
    ClosesOnExit,
    Described,
    RuntimeOptions,
    check_frames,
    check_signature,
    only,
)
from stdeploy.runtime.cuda import StagedArray, Stream
from stdeploy.sidecar import EngineSidecar

if TYPE_CHECKING:
    import tensorrt as trt


class TensorRtRuntime(ClosesOnExit):
    """An engine with one execution context on a stream of its own.

    A context serves one thread at a time; a lock sees to that. Frames and logits go through
    page-locked memory, kept for each batch size. Batches over the engine's largest are split.
    """

    name = "tensorrt"

    def __init__(
        self,
        runtime: "trt.Runtime",
        engine: "trt.ICudaEngine",
        sidecar: EngineSidecar,
        gpu: Gpu,
        *,
        cuda_graphs: bool,
    ) -> None:
        self.precision = sidecar.card.precision
        graphs = ", CUDA graphs" if cuda_graphs else ""
        self.device = f"{gpu.name}, {sidecar.flavour} {sidecar.version}{graphs}"
        self._card = sidecar.card
        self._smallest, _, self._largest = sidecar.batches
        self._lock = threading.Lock()
        # Each of the three needs the one before it for as long as it lives.
        self._runtime: trt.Runtime | None = runtime
        self._engine: trt.ICudaEngine | None = engine
        context = engine.create_execution_context()
        if context is None:
            raise BackendError(
                f"the GPU has no memory for this engine: {engine.device_memory_size_v2} bytes"
            )
        self._context: trt.IExecutionContext | None = context
        self._stream = Stream()
        self._buffers: dict[int, tuple[StagedArray, StagedArray]] = {}
        self._graphs: dict[int, Any] | None = {} if cuda_graphs else None

    @classmethod
    def open(cls, artifact: Path, card: ModelCard, options: RuntimeOptions) -> Self:
        """Load an artifact; see `Runtime.open`.

        Nothing of the file is given to TensorRT before its digest, its versions and its GPU were
        compared with the sidecar.
        """
        only("tensorrt", options, "cuda_graphs", "rebuild")
        sidecar = EngineSidecar.read(artifact)
        if options.precision not in (None, sidecar.card.precision):
            raise BackendError(
                f"{artifact.name!r} is in {sidecar.card.precision}, as it was built; build one in "
                f"{options.precision}: stdeploy export --precision {options.precision} --trt"
            )
        if options.rebuild:
            sidecar = rebuild(artifact, sidecar)
        sidecar.check_digest(artifact)
        flavour = import_flavour(sidecar.flavour)
        if not gpus():
            raise BackendError(
                f"{str(artifact)!r} runs on an NVIDIA GPU ({', '.join(sidecar.targets)}), and "
                f"there is none here; use {sidecar.onnx}"
            )
        gpu = gpus()[0]
        reason = sidecar.mismatch(flavour.version, gpu)
        if reason is not None:
            raise ArtifactError(
                f"{str(artifact)!r} does not fit this host: {reason}; run: "
                f"{sidecar.rebuild_command}, or pass --rebuild"
            )
        runtime, engine = _deserialise(artifact, sidecar, flavour)
        _check_engine(artifact, card, engine, flavour)
        return cls(runtime, engine, sidecar, gpu, cuda_graphs=options.cuda_graphs)

    def run(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Classify clips; see `Runtime.run`."""
        check_frames(frames, self._card)
        if len(frames) < self._smallest:
            raise ArtifactError(
                f"this engine takes {self._smallest} to {self._largest} clips at a time, not "
                f"{len(frames)}; build it with --batches 1,..."
            )
        with self._lock:
            return np.concatenate([self._run(frames[part]) for part in self._parts(len(frames))])

    def close(self) -> None:
        """Release context, engine, buffers and stream."""
        for arrays in self._buffers.values():
            for array in arrays:
                array.free()
        self._buffers.clear()
        self._graphs = None
        self._context = None
        self._engine = None
        self._runtime = None
        self._stream.close()

    def _parts(self, count: int) -> list[slice]:
        """Slices of at most the largest batch, none smaller than the smallest."""
        parts = -(-count // self._largest)
        edges = [round(i * count / parts) for i in range(parts + 1)]
        return [slice(a, b) for a, b in itertools.pairwise(edges)]

    def _run(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        batch = len(frames)
        if batch not in self._buffers:
            self._buffers[batch] = self._allocate(batch)
        source, target = self._buffers[batch]
        source.host[:] = frames
        graph = self._graphs.get(batch) if self._graphs is not None else None
        if graph is None:
            self._enqueue(batch, source, target)
        else:
            self._stream.launch(graph)
        self._stream.synchronise()
        logits = np.array(target.host, dtype=np.float32)
        if self._graphs is not None and graph is None:
            # The run before has made TensorRT settle what depends on the shape.
            self._stream.begin_capture()
            self._enqueue(batch, source, target)
            self._graphs[batch] = self._stream.end_capture()
        return logits

    def _allocate(self, batch: int) -> tuple[StagedArray, StagedArray]:
        frames = (batch, *self._card.clip.frames_shape)
        return (
            StagedArray(frames, np.uint8),
            StagedArray((batch, self._card.model.num_classes), np.float32),
        )

    def _enqueue(self, batch: int, source: StagedArray, target: StagedArray) -> None:
        context = self._context
        assert context is not None
        shape = (batch, *self._card.clip.frames_shape)
        if not context.set_input_shape("frames", shape) or context.infer_shapes():
            raise ArtifactError(f"TensorRT refuses a batch of {batch} clips")
        context.set_tensor_address("frames", source.device)
        context.set_tensor_address("logits", target.device)
        source.upload(self._stream.handle)
        if not context.execute_async_v3(self._stream.handle):
            raise BackendError(f"TensorRT cannot run a batch of {batch} clips")
        target.download(self._stream.handle)


def _deserialise(
    artifact: Path, sidecar: EngineSidecar, flavour: Flavour
) -> tuple["trt.Runtime", "trt.ICudaEngine"]:
    api = flavour.api
    messages = messages_of(flavour)
    messages.clear()
    runtime = api.Runtime(messages.logger)
    if sidecar.version_compatible:
        runtime.engine_host_code_allowed = True  # such plans hold a small runtime of their own
    engine = runtime.deserialize_cuda_engine(artifact.read_bytes())
    if engine is None:
        raise ArtifactError(
            f"{flavour.name} {flavour.version} refuses {str(artifact)!r}: {messages.last()}; "
            f"run: {sidecar.rebuild_command}"
        )
    return runtime, engine


def _check_engine(
    artifact: Path, card: ModelCard, engine: "trt.ICudaEngine", flavour: Flavour
) -> None:
    api = flavour.api
    types = {api.DataType.UINT8: "uint8", api.DataType.FLOAT: "float32"}
    inputs: list[Described] = []
    outputs: list[Described] = []
    for number in range(engine.num_io_tensors):
        name = engine.get_tensor_name(number)
        dtype = engine.get_tensor_dtype(name)
        shape = tuple(
            None if size < 0 else int(size) for size in tuple(engine.get_tensor_shape(name))
        )
        is_input = engine.get_tensor_mode(name) == api.TensorIOMode.INPUT
        (inputs if is_input else outputs).append((name, types.get(dtype, str(dtype)), shape))
    check_signature(artifact, card, inputs, outputs)
