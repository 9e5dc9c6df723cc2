"""ONNX Runtime: on the CPU, or on an NVIDIA GPU through its CUDA provider."""

import contextlib
import dataclasses
import functools
import importlib.util
import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from stdeploy.artifacts.card import ModelCard
from stdeploy.artifacts.frames import Frames
from stdeploy.artifacts.spec import Precision
from stdeploy.backends.base import (
    BaseRuntime,
    Features,
    Finding,
    RunsClips,
    RuntimeOptions,
    StreamOptions,
    includes,
)
from stdeploy.backends.onnxruntime_streams import OnnxRuntimeStreams
from stdeploy.backends.signature import Described, as_input, check_frames, check_signature
from stdeploy.backends.streams import written_stream
from stdeploy.errors import ArtifactError, BackendError, SpecError
from stdeploy.hardware import gpus
from stdeploy.optional_packages import pip_install, require, with_our_pip

if TYPE_CHECKING:
    from torch import Tensor

_log = logging.getLogger(__name__)

_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_FATAL = 4  # ONNX Runtime's severities: 3 error, 4 fatal

# Its CUDA provider has no int8 convolution (1.31.1: no QLinearConv in its library): Q and DQ nodes
# stay around one in float32.
_PRECISIONS_ON_GPUS: tuple[Precision, ...] = ("fp32", "fp16")

_NUMPY_TYPES = {
    "tensor(uint8)": "uint8",
    "tensor(int32)": "int32",
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
}


class OnnxRuntime(BaseRuntime):
    """An .onnx artifact in an inference session of ONNX Runtime.

    On a GPU the frames are copied to one device buffer a batch size, which the session is bound
    to, and only the logits come back. With CUDA graphs each batch size is captured once, with
    these buffers, and replayed.
    """

    name = "onnxruntime"
    library = "onnxruntime"
    extra = "cpu"
    precisions = ("fp32", "fp16", "int8")  # its CUDA provider has no bf16 either
    devices = ("cpu", "cuda")
    options = ("cuda_graphs", "channels_last")
    automatic = True

    def __init__(
        self, session: Any, card: ModelCard, options: RuntimeOptions, *, on_gpu: bool
    ) -> None:
        self._session = session
        self._card = card
        self._bindings: dict[int, _Binding] = {}
        self._on_gpu = on_gpu
        self._cuda_graphs = options.cuda_graphs and on_gpu
        self.device_type = "cuda" if on_gpu else "cpu"
        self.precision = card.precision
        provider = _CUDA if on_gpu else _CPU
        words = [gpus()[0].name, provider] if on_gpu and gpus() else ["CPU"]
        words += ["channels last"] if on_gpu and options.channels_last else []
        words += ["CUDA graphs"] if self._cuda_graphs else []
        self.device = ", ".join(words)

    @classmethod
    def open(cls, artifact: Path, card: ModelCard, options: RuntimeOptions) -> Self:
        """Load an artifact; see `BaseRuntime.open`."""
        session, on_gpu = cls._open(artifact, card, options)
        return cls(session, card, options, on_gpu=on_gpu)

    @classmethod
    def open_streams(
        cls,
        artifact: Path,
        card: ModelCard,
        options: RuntimeOptions,
        asked: StreamOptions,
    ) -> OnnxRuntimeStreams:
        """Load a file for streams; see `BaseRuntime.open_streams`."""
        spec = written_stream(card, asked)
        if options.cuda_graphs:
            raise SpecError("onnxruntime replays no CUDA graph of streams; leave --cuda-graphs out")
        ort = require("onnxruntime", extra="cpu", purpose=f"running {artifact.name!r}")
        session, on_gpu = cls._open(artifact, card, options)
        device = cls(session, card, options, on_gpu=on_gpu).device
        return OnnxRuntimeStreams(ort, session, card, spec, device=device, on_gpu=on_gpu)

    @classmethod
    def _open(cls, artifact: Path, card: ModelCard, options: RuntimeOptions) -> tuple[Any, bool]:
        """A session, and whether it runs on the GPU.

        The provider that the session really uses is compared with the one that was asked for:
        ONNX Runtime itself goes on with the CPU after a message that is easily overlooked.
        """
        extra = "gpu" if options.device == "cuda" else "cpu"
        ort = require("onnxruntime", extra=extra, purpose=f"running {artifact.name!r}")
        cls.as_written(artifact, card, options)
        on_gpu = options.device == "cuda"
        for name in cls.options:
            if getattr(options, name) and not on_gpu:
                raise BackendError(f"--{name.replace('_', '-')} needs --device cuda")
        if on_gpu and _CUDA not in ort.get_available_providers():
            if not options.allow_cpu:
                if not gpus():
                    raise BackendError(
                        f"{_CUDA} was asked for, but no NVIDIA GPU is seen here; leave --device "
                        "out, or pass --allow-cpu"
                    )
                raise BackendError(
                    f"{_CUDA} was asked for, but the onnxruntime installed here is built for "
                    f"the CPU only; uninstall it and run: {with_our_pip(pip_install('gpu'))}, or "
                    "pass --allow-cpu"
                )
            on_gpu = False
        if on_gpu and card.precision == "int8":
            _log.warning(
                "%s: ONNX Runtime has no int8 convolutions for GPUs and computes them in float32, "
                "slower than an fp16 file; run: stdeploy export --precision fp16, or build an "
                "engine with --trt",
                artifact.name,
            )
        session = _session(ort, artifact, card, options, on_gpu=on_gpu)
        used = session.get_providers()[0]
        if on_gpu and used != _CUDA:
            if not options.allow_cpu:
                raise BackendError(
                    f"{_CUDA} was asked for, but ONNX Runtime fell back to {used}: no NVIDIA GPU, "
                    "driver or CUDA library that it can use; see stdeploy doctor, or pass "
                    "--allow-cpu"
                )
            on_gpu = False
        check_signature(
            artifact,
            card,
            [_described(tensor) for tensor in session.get_inputs()],
            [_described(tensor) for tensor in session.get_outputs()],
        )
        return session, on_gpu

    def run(self, frames: Frames) -> NDArray[np.float32]:
        """Classify clips; see `RunsClips.run`."""
        check_frames(frames, self._card)
        try:
            in_place = self._on_gpu and not self._cuda_graphs  # a graph keeps its addresses
            if in_place and not isinstance(frames, np.ndarray):
                return self._run_in_place(frames)
            clips = as_input(frames, self._card)
            if self._on_gpu:
                return self._run_bound(clips)
            (logits,) = self._session.run(["logits"], {"frames": clips})
        except Exception as error:  # ONNX Runtime's own classes share no narrower base
            reason = str(error).splitlines()[0]
            raise ArtifactError(
                f"ONNX Runtime cannot run a batch of {len(frames)} clips: {reason}"
            ) from error
        return np.asarray(logits, dtype=np.float32)

    def close(self) -> None:
        """Release the session."""
        self._bindings.clear()
        self._session = None

    @classmethod
    def sees_gpu(cls) -> bool:
        """Whether onnxruntime-gpu and an NVIDIA GPU are both here."""
        return _has_gpu()

    @classmethod
    def ways(cls, card: ModelCard) -> Iterator[RuntimeOptions]:
        """On the CPU; fp32 and fp16 on the GPU too, with either layout, also as CUDA graphs."""
        for way in super().ways(card):
            yield way
            if not cls.sees_gpu() or card.precision not in _PRECISIONS_ON_GPUS:
                continue
            if card.stream is not None:
                yield dataclasses.replace(way, device="cuda")
                continue
            for channels_last in (False, True):
                for cuda_graphs in (False, True):
                    yield dataclasses.replace(
                        way, device="cuda", channels_last=channels_last, cuda_graphs=cuda_graphs
                    )

    @classmethod
    def automatic_ways(
        cls,
        card: ModelCard,
        options: RuntimeOptions,
    ) -> tuple[RuntimeOptions, ...]:
        """On a GPU with CUDA graphs or not, and then with channels last or not."""
        if card.stream is not None or options.device != "cuda" or not cls.sees_gpu():
            return (options,)
        graphs = dataclasses.replace(options, cuda_graphs=True)
        ways = (options, graphs, dataclasses.replace(graphs, channels_last=True))
        return tuple(dict.fromkeys(way for way in ways if includes(way, options)))

    @classmethod
    def open_trunk(cls, model: bytes, like: RunsClips) -> Features:
        """Load a graph that ends in features; see `BaseRuntime.open_trunk`."""
        ort = require("onnxruntime", extra="cpu", purpose="running an .onnx file")
        settings = ort.SessionOptions()
        settings.log_severity_level = _FATAL
        settings.enable_cpu_mem_arena = False
        providers: list[Any] = [_CPU]
        if like.device_type == "cuda":
            providers.insert(0, (_CUDA, cuda_options(like.precision)))
        session = ort.InferenceSession(model, settings, providers=providers)
        if len(providers) > 1 and session.get_providers()[0] == _CPU:
            raise BackendError("the trunk of a dense timeline cannot use the GPU; try --device cpu")
        (output,) = (tensor.name for tensor in session.get_outputs())

        def features(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
            (found,) = session.run([output], {"frames": np.ascontiguousarray(frames)})
            return np.asarray(found, dtype=np.float32)

        return features

    @classmethod
    def examine(cls) -> Iterator[Finding]:
        """Which build is here, and which providers a session really uses."""
        if not cls.installed():
            yield cls.absent()
            return
        onnxruntime = require("onnxruntime", extra="cpu", purpose="running an .onnx file")
        yield Finding("onnxruntime, cpu", "works", onnxruntime.__version__)
        if _CUDA not in onnxruntime.get_available_providers():
            if gpus():
                yield Finding(
                    "onnxruntime, cuda",
                    "problem",
                    "there is a GPU, but this onnxruntime is built for CPUs",
                    f"pip uninstall onnxruntime, then {pip_install('gpu')}",
                )
            return
        used = _providers_in_use(onnxruntime)
        if _CUDA in used:
            text = f"providers in use: {', '.join(used)}; {', '.join(_PRECISIONS_ON_GPUS)}"
            yield Finding("onnxruntime, cuda", "works", f"{text}; int8 files run in float32 there")
        else:
            # What it lists is what it was built for; only a session shows what it uses.
            yield Finding(
                "onnxruntime, cuda",
                "problem" if gpus() else "absent",
                f"{_CUDA} is listed, but a session falls back to the CPU",
                "install the CUDA 13 and cuDNN 9 libraries: pip install "
                "'onnxruntime-gpu[cuda,cudnn]'"
                if gpus()
                else "",
            )

    def _run_bound(self, clips: NDArray[np.generic]) -> NDArray[np.float32]:
        if len(clips) not in self._bindings:
            self._bindings[len(clips)] = self._bind(clips)
        bound = self._bindings[len(clips)]
        bound.clips.update_inplace(clips)
        self._session.run_with_iobinding(bound.binding, bound.run_options)
        return np.array(bound.logits.numpy(), dtype=np.float32)

    def _run_in_place(self, frames: "Tensor") -> NDArray[np.float32]:
        """Run on frames that lie on the GPU already."""
        import torch  # what has put them there has it

        if self._card.input == "float-ncthw":
            frames = frames.permute(0, 4, 1, 2, 3).float()
        frames = frames.contiguous()
        logits = np.empty((len(frames), self._card.model.num_classes), dtype=np.float32)
        if frames.is_cuda:
            # The session runs on a stream of its own.
            torch.cuda.current_stream(frames.device).synchronize()
        binding = self._session.io_binding()
        binding.bind_input(
            name="frames",
            device_type=frames.device.type,
            device_id=frames.device.index or 0,
            element_type=np.float32 if frames.is_floating_point() else np.uint8,
            shape=tuple(frames.shape),
            buffer_ptr=frames.data_ptr(),
        )
        binding.bind_output(
            name="logits",
            device_type="cpu",
            element_type=np.float32,
            shape=logits.shape,
            buffer_ptr=logits.ctypes.data,
        )
        self._session.run_with_iobinding(binding)
        return logits

    def _bind(self, clips: NDArray[np.generic]) -> "_Binding":
        ort = require("onnxruntime", extra="gpu", purpose="running on a GPU")
        # A captured graph keeps these addresses: only what they hold may change.
        device_clips = ort.OrtValue.ortvalue_from_numpy(clips, "cuda", 0)
        device_logits = ort.OrtValue.ortvalue_from_shape_and_type(
            [len(clips), self._card.model.num_classes], np.float32, "cuda", 0
        )
        binding = self._session.io_binding()
        binding.bind_ortvalue_input("frames", device_clips)
        binding.bind_ortvalue_output("logits", device_logits)
        return _Binding(binding, device_clips, device_logits, self._run_options(ort, len(clips)))

    def _run_options(self, ort: Any, batch: int) -> Any:
        """Which graph a run captures or replays: one a batch size; 0 is ONNX Runtime's own."""
        if not self._cuda_graphs:
            return None
        options = ort.RunOptions()
        options.add_run_config_entry("gpu_graph_id", str(batch))
        return options


@dataclasses.dataclass(frozen=True)
class _Binding:
    """What the session is bound to for one batch size: device buffers, and how it is run."""

    binding: Any
    clips: Any
    logits: Any
    run_options: Any


@functools.cache
def _has_gpu() -> bool:
    if not gpus() or not importlib.util.find_spec("onnxruntime"):
        return False
    onnxruntime = require("onnxruntime", extra="cpu", purpose="running an .onnx file")
    return _CUDA in onnxruntime.get_available_providers()


def preload_cuda(ort: Any) -> None:
    """Let ONNX Runtime find the CUDA libraries that pip put beside it.

    NOTE: it prints what it misses to standard output, where results go; what is missing shows
    in the providers that a session uses.
    """
    if gpus() and hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):
            ort.preload_dlls(directory="")


def cuda_options(
    precision: Precision, *, channels_last: bool = False, cuda_graphs: bool = False
) -> dict[str, str]:
    """Options of the CUDA provider for files of a precision.

    NOTE: `use_tf32=0` does more than its name says. With it the provider leaves out all kernels of
    cuDNN that use tensor cores, whatever the type of the convolution (its conv.cc, for cuDNN 9:
    `deselect_numeric_notes({TENSOR_CORE})`), and in fp16 there are no others that are faster than
    those of fp32. So it is asked for only where convolutions are in float32: TF32 keeps 10 bits of
    a factor, which a golden clip in float32 would not forgive.

    `cudnn_conv_algo_search` stays as it is: with cuDNN 9 it chooses between two heuristics, and
    times nothing. `fuse_conv_bias` fills outputs with zeros first where channels are not last.

    Args:
        precision: of the file.
        channels_last: see `RuntimeOptions`.
        cuda_graphs: likewise.
    """
    options = {"use_tf32": "1" if precision == "fp16" else "0"}
    if channels_last:
        options["prefer_nhwc"] = "1"
    if cuda_graphs:
        options["enable_cuda_graph"] = "1"
    return options


def _session(
    ort: Any, artifact: Path, card: ModelCard, options: RuntimeOptions, *, on_gpu: bool
) -> Any:
    settings = ort.SessionOptions()
    # What goes wrong is raised, or found in get_providers(); lines beside that only confuse.
    settings.log_severity_level = _FATAL
    ort.set_default_logger_severity(_FATAL)
    # Clips are large: an arena that grows by doubling holds gigabytes that nothing uses.
    settings.enable_cpu_mem_arena = False
    if options.threads is not None:
        settings.intra_op_num_threads = options.threads
    providers: list[Any] = [_CPU]
    if on_gpu:
        preload_cuda(ort)
        asked = cuda_options(
            card.precision, channels_last=options.channels_last, cuda_graphs=options.cuda_graphs
        )
        providers.insert(0, (_CUDA, asked))
    # NOTE: on a CPU, 1.32 crashes when it opens a transformer in float16 with this optimisation,
    # which convolutions do not need.
    harmful = ["MatmulTransposeFusion"] if card.precision == "fp16" and not on_gpu else None
    try:
        return ort.InferenceSession(
            str(artifact), settings, providers=providers, disabled_optimizers=harmful
        )
    except Exception as error:  # as above
        reason = str(error).splitlines()[0]
        raise ArtifactError(
            f"{str(artifact)!r} cannot be loaded by ONNX Runtime: {reason}"
        ) from error


def _described(tensor: Any) -> Described:
    shape = tuple(size if isinstance(size, int) else None for size in tensor.shape)
    return tensor.name, _NUMPY_TYPES.get(tensor.type, tensor.type), shape


def _providers_in_use(onnxruntime: Any) -> list[str]:
    """The providers of a session that asks for CUDA."""
    from onnx import TensorProto, helper

    tensors = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in ("x", "y")]
    relu = helper.make_node("Relu", ["x"], ["y"])
    graph = helper.make_graph([relu], "relu", tensors[:1], tensors[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    preload_cuda(onnxruntime)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    onnxruntime.set_default_logger_severity(4)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CUDAExecutionProvider"]
    )
    return list(session.get_providers())
