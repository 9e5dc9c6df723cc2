"""TensorRT and TensorRT-RTX engines on an NVIDIA GPU, without torch."""

import dataclasses
import importlib.util
import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from stdeploy.artifacts.card import ModelCard
from stdeploy.artifacts.engine_sidecar import EngineSidecar
from stdeploy.artifacts.frames import Frames
from stdeploy.backends.base import BaseRuntime, Finding, RuntimeOptions, findings
from stdeploy.backends.cuda import StagedArray, Stream, runtime_api
from stdeploy.backends.engine_files import rebuilt
from stdeploy.backends.signature import Described, as_input, check_signature
from stdeploy.backends.tensorrt_builder import (
    EXTRAS,
    Distribution,
    DistributionName,
    import_distribution,
    messages_of,
    usable_distributions,
)
from stdeploy.errors import ArtifactError, BackendError, MissingExtraError
from stdeploy.hardware import Gpu, gpus
from stdeploy.optional_packages import pip_install

if TYPE_CHECKING:
    import tensorrt as trt


class TensorRtRuntime(BaseRuntime):
    """An engine on a stream of its own.

    Contexts serve one thread at a time; a lock sees to that. Frames and logits go through
    page-locked memory, kept for each batch size. Batches over the engine's largest are split.
    """

    name = "tensorrt"
    library = "tensorrt"
    extra = "trt"
    precisions = ("fp32", "fp16", "bf16", "int8")
    devices = ("cuda",)
    options = ("cuda_graphs", "rebuild")
    automatic = True

    def __init__(
        self,
        runtime: "trt.Runtime",
        engine: "trt.ICudaEngine",
        sidecar: EngineSidecar,
        gpu: Gpu,
        distribution: Distribution,
        *,
        cuda_graphs: bool,
    ) -> None:
        self.precision = sidecar.card.precision
        graphs = ", CUDA graphs" if cuda_graphs else ""
        self.device_type = "cuda"
        self.device = f"{gpu.name}, {sidecar.distribution} {sidecar.version}{graphs}"
        self._card = sidecar.card
        self._largest = sidecar.batches[1]
        self._distribution = distribution
        self._cuda_graphs = cuda_graphs
        self._lock = threading.Lock()
        # An engine needs its runtime, and contexts their engine, for as long as they live.
        self._runtime: trt.Runtime | None = runtime
        self._engine: trt.ICudaEngine | None = engine
        self._shared: trt.IExecutionContext | None = None
        self._stream = Stream()
        self._executions: dict[int, _Execution] = {}

    @classmethod
    def open(cls, artifact: Path, card: ModelCard, options: RuntimeOptions) -> Self:
        """Load an artifact; see `BaseRuntime.open`.

        Nothing of the file is given to TensorRT before its digest, its versions and its GPU were
        compared with the sidecar.
        """
        sidecar = EngineSidecar.read(artifact)
        if options.precision not in (None, sidecar.card.precision):
            raise BackendError(
                f"{artifact.name!r} is in {sidecar.card.precision}, as it was built; build one in "
                f"{options.precision}: stdeploy export --precision {options.precision} --trt"
            )
        content = sidecar.read_code(artifact)
        distribution = import_distribution(sidecar.distribution)
        if not gpus():
            raise BackendError(
                f"{str(artifact)!r} runs on an NVIDIA GPU ({', '.join(sidecar.targets)}), and "
                f"there is none here; use {sidecar.onnx}"
            )
        gpu = gpus()[0]
        reason = sidecar.mismatch(distribution.version, gpu)
        if reason is not None and options.rebuild:
            return cls._rebuilt(artifact, sidecar, options)
        if reason is not None:
            raise ArtifactError(
                f"{str(artifact)!r} does not fit this host: {reason}; run: "
                f"{sidecar.rebuild_command(artifact)}, or pass --rebuild"
            )
        runtime, engine = _deserialise(artifact, content, sidecar, distribution)
        _check_engine(artifact, card, engine, distribution)
        return cls(runtime, engine, sidecar, gpu, distribution, cuda_graphs=options.cuda_graphs)

    @classmethod
    def _rebuilt(cls, artifact: Path, sidecar: EngineSidecar, options: RuntimeOptions) -> Self:
        """Build for this host; the old engine goes when the new one has answered rightly."""
        from stdeploy.backends.loader import golden_row

        with rebuilt(artifact, sidecar) as unproven:
            as_built = dataclasses.replace(options, rebuild=False)
            runtime = cls.open(unproven, sidecar.card, as_built)
            try:
                row = golden_row(runtime, sidecar.card, source=artifact.name)
                EngineSidecar.read(unproven).with_parity(row).write(unproven)
            except BaseException:
                runtime.close()
                raise
        return runtime

    def run(self, frames: Frames) -> NDArray[np.float32]:
        """Classify clips; see `RunsClips.run`."""
        clips = as_input(frames, self._card)
        with self._lock:
            if self._engine is None:
                raise BackendError("this engine was closed")
            return np.concatenate([self._run(clips[part]) for part in self._parts(len(clips))])

    def close(self) -> None:
        """Release contexts, engine, buffers and stream."""
        with self._lock:
            for execution in self._executions.values():
                execution.free(self._stream)
            self._executions.clear()
            self._shared = None
            self._engine = None
            self._runtime = None
            self._stream.close()

    @classmethod
    def installed(cls) -> bool:
        """Whether TensorRT or TensorRT-RTX is here."""
        return any(importlib.util.find_spec(name) is not None for name in EXTRAS)

    @classmethod
    def sees_gpu(cls) -> bool:
        """Whether there is an NVIDIA GPU."""
        return bool(gpus())

    @classmethod
    def ways(cls, card: ModelCard) -> Iterator[RuntimeOptions]:
        """With and without CUDA graphs."""
        if card.precision in cls.precisions and gpus() and list(usable_distributions()):
            yield RuntimeOptions(backend="tensorrt", device="cuda")
            yield RuntimeOptions(backend="tensorrt", device="cuda", cuda_graphs=True)

    @classmethod
    def examine(cls) -> Iterator[Finding]:
        """TensorRT and TensorRT-RTX."""
        for name in EXTRAS:
            yield from findings(name, _examine)

    def _parts(self, count: int) -> list[slice]:
        """Slices of at most the largest batch, of nearly the same length."""
        parts = -(-count // self._largest)
        edges = [round(i * count / parts) for i in range(parts + 1)]
        return [slice(a, b) for a, b in itertools.pairwise(edges)]

    def _run(self, clips: NDArray[np.generic]) -> NDArray[np.float32]:
        batch = len(clips)
        if batch not in self._executions:
            self._executions[batch] = _Execution(self._context(), self._card, batch)
        execution = self._executions[batch]
        # TensorRT-RTX captures graphs by itself; see _new_context.
        capture = self._cuda_graphs and self._distribution.name == "tensorrt"
        return execution.run(clips, self._stream, capture=capture)

    def _context(self) -> "trt.IExecutionContext":
        """One for all batch sizes; with CUDA graphs one for each, because a graph keeps its own."""
        if self._cuda_graphs:
            return self._new_context()
        if self._shared is None:
            self._shared = self._new_context()
        return self._shared

    def _new_context(self) -> "trt.IExecutionContext":
        engine = self._engine
        assert engine is not None
        if self._distribution.name == "tensorrt_rtx":
            context = _rtx_context(engine, self._distribution, cuda_graphs=self._cuda_graphs)
        else:
            context = engine.create_execution_context()
        if context is None:
            raise BackendError(
                f"TensorRT cannot run this engine: {messages_of(self._distribution).last()}; it "
                f"needs {engine.device_memory_size_v2} bytes on the GPU"
            )
        return context


class _Execution:
    """What belongs to one batch size: buffers, and a CUDA graph where one is wanted."""

    def __init__(self, context: "trt.IExecutionContext", card: ModelCard, batch: int) -> None:
        self._context = context
        self._shape = (batch, *card.input_shape)
        self._source = StagedArray(self._shape, np.dtype(card.input_type))
        try:
            self._target = StagedArray((batch, card.model.num_classes), np.float32)
        except BackendError:
            self._source.free()
            raise
        self._graph: Any = None

    def run(
        self, clips: NDArray[np.generic], stream: Stream, *, capture: bool
    ) -> NDArray[np.float32]:
        self._source.host[:] = clips
        if self._graph is None:
            self._enqueue(stream)
        else:
            stream.launch(self._graph)
        stream.synchronise()
        logits = np.array(self._target.host, dtype=np.float32)
        if capture and self._graph is None:
            # The run before has made TensorRT settle what depends on the shape.
            stream.begin_capture()
            try:
                self._enqueue(stream)
            finally:
                graph = stream.end_capture()
            self._graph = graph
        return logits

    def free(self, stream: Stream) -> None:
        if self._graph is not None:
            stream.destroy(self._graph)
            self._graph = None
        self._source.free()
        self._target.free()

    def _enqueue(self, stream: Stream) -> None:
        context, batch = self._context, self._shape[0]
        try:
            ready = context.set_input_shape("frames", self._shape) and not context.infer_shapes()
        except RuntimeError:  # how infer_shapes refuses
            ready = False
        if not ready:
            raise ArtifactError(f"TensorRT refuses a batch of {batch} clips")
        context.set_tensor_address("frames", self._source.device)
        context.set_tensor_address("logits", self._target.device)
        self._source.upload(stream.handle)
        if not context.execute_async_v3(stream.handle):
            raise BackendError(f"TensorRT cannot run a batch of {batch} clips")
        self._target.download(stream.handle)


def _rtx_context(engine: Any, distribution: Distribution, *, cuda_graphs: bool) -> Any:
    """A context of TensorRT-RTX, which compiles its kernels when it first meets a shape.

    Eagerly: otherwise it would answer with slower kernels first and change them later, so that
    the same clip gave other digits, and a benchmark measured both.
    """
    api = distribution.api
    config = engine.create_runtime_config()
    eager = api.DynamicShapesKernelSpecializationStrategy.EAGER
    config.dynamic_shapes_kernel_specialization_strategy = eager
    if cuda_graphs:
        config.cuda_graph_strategy = api.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    return engine.create_execution_context(config)


def _deserialise(
    artifact: Path, content: bytes, sidecar: EngineSidecar, distribution: Distribution
) -> tuple["trt.Runtime", "trt.ICudaEngine"]:
    api = distribution.api
    messages = messages_of(distribution)
    messages.clear()
    try:
        runtime = api.Runtime(messages.logger)
    except (TypeError, RuntimeError) as error:  # what the bindings make of a null pointer
        raise BackendError(f"{distribution.name} cannot start here: {messages.last()}") from error
    if sidecar.version_compatible:
        runtime.engine_host_code_allowed = True  # such plans hold a small runtime of their own
    engine = runtime.deserialize_cuda_engine(content)
    if engine is None:
        raise ArtifactError(
            f"{distribution.name} {distribution.version} refuses {str(artifact)!r}: "
            f"{messages.last()}; run: {sidecar.rebuild_command(artifact)}"
        )
    return runtime, engine


def _check_engine(
    artifact: Path, card: ModelCard, engine: "trt.ICudaEngine", distribution: Distribution
) -> None:
    api = distribution.api
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


def _examine(name: DistributionName) -> Iterator[Finding]:
    yield _finding(name)


def _finding(name: DistributionName) -> Finding:
    try:
        distribution = import_distribution(name)
    except BackendError as error:
        if importlib.util.find_spec(name) is None:
            return Finding(name, "absent", "not installed", pip_install(EXTRAS[name]))
        return Finding(name, "problem", str(error), "reinstall it with all its parts")
    if not gpus():
        ahead = ": builds for --target sm86,sm89,sm120" if name == "tensorrt_rtx" else ""
        return Finding(name, "absent", f"{distribution.version} is here, but no GPU{ahead}")
    try:
        runtime_api()
    except MissingExtraError:
        return Finding(
            name, "problem", "cuda-bindings is not installed", "pip install cuda-bindings"
        )
    target = gpus()[0].target
    if (
        name == "tensorrt_rtx"
        and target.upper() not in distribution.api.ComputeCapability.__members__
    ):
        text = f"{distribution.version}; {target} is not among the GPUs that it names"
        return Finding(name, "fact", text, "if it refuses this GPU, use TensorRT")
    return Finding(name, "works", distribution.version)
