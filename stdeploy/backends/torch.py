"""PyTorch: checkpoints and fused weights as they are, on the CPU or an NVIDIA GPU."""

import dataclasses
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from stdeploy.artifacts.card import ModelCard
from stdeploy.artifacts.frames import Frames
from stdeploy.artifacts.spec import DEFAULT_WINDOW_FRAMES, ClipSpec, Precision
from stdeploy.backends.base import (
    BaseRuntime,
    Finding,
    RuntimeOptions,
    StreamOptions,
    includes,
)
from stdeploy.backends.signature import check_frames
from stdeploy.errors import ArtifactError, BackendError, SpecError
from stdeploy.hardware import gpus
from stdeploy.optional_packages import require

require("torch", extra="train", purpose="running a .pt or .safetensors file")

import torch  # noqa: E402 - after the check for it
from torch import Tensor, nn  # noqa: E402

from stdeploy.backends.torch_epilogues import (  # noqa: E402
    ALIGNED_CHANNELS,
    with_fused_epilogues,
)
from stdeploy.backends.torch_execution import captured, exact, quiet  # noqa: E402
from stdeploy.backends.torch_streams import TorchStreams  # noqa: E402
from stdeploy.models.base import ActionModel  # noqa: E402
from stdeploy.models.checkpoint import load_model  # noqa: E402
from stdeploy.models.frames_to_logits import FramesToLogits, halve_trunk  # noqa: E402
from stdeploy.models.planar import planar_form  # noqa: E402
from stdeploy.models.planar_modules import StackedConv  # noqa: E402
from stdeploy.models.streaming import streaming_form  # noqa: E402

_DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}
_BOTH = (False, True)


class TorchRuntime(BaseRuntime):
    """A network of torch in evaluation mode.

    On a GPU the channels of a pixel lie side by side, as kernels for half precision want it, frames
    go through page-locked memory, and with CUDA graphs each batch size is captured once and
    replayed.

    Args:
        graph: maps uint8 frames (N, T, H, W, 3) to logits (N, K), both on the device.
        card: of the artifact.
        precision: of the convolutions in it.
        options: what it was made by.
        stored: see `Runtime`.
    """

    name = "torch"
    library = "torch"
    extra = "train"
    precisions = ("fp32", "fp16", "bf16")
    devices = ("cpu", "cuda")
    options: tuple[str, ...] = ("compile", "autotune", "planar", "fused_relu", "cuda_graphs")
    automatic = True

    def __init__(
        self,
        graph: Callable[[Tensor], Tensor],
        card: ModelCard,
        precision: Precision,
        options: RuntimeOptions,
        stored: Precision = "fp32",
    ) -> None:
        self._card = card
        self.stored = stored
        self._on_gpu = options.device == "cuda"
        self.device_type = "cuda" if self._on_gpu else "cpu"
        self._graph: Callable[[Tensor], Tensor] | None = graph
        self._captured: dict[int, _Captured] | None = {} if options.cuda_graphs else None
        self.precision = precision
        words = [torch.cuda.get_device_name() if self._on_gpu else "CPU"]
        words += ["planar"] if options.planar or card.form == "planar" else []
        words += ["fused ReLU"] if options.fused_relu else []
        words += ["compiled"] if options.compile else []
        words += ["autotuned"] if options.autotune else []
        words += ["CUDA graphs"] if options.cuda_graphs else []
        self.device = ", ".join(words)

    @classmethod
    def open(cls, artifact: Path, card: ModelCard, options: RuntimeOptions) -> Self:
        """Load an artifact; see `BaseRuntime.open`."""
        options = _possible(options)
        model, _ = load_model(artifact)
        if options.planar:
            _check_fused(artifact, card, "--planar")
        precision, stored = options.precision or "fp32", model.stored
        if options.planar:
            model = planar_form(model, card.clip.num_frames)
        network = network_on(options.device, model, card.clip, precision)
        graph: Callable[[Tensor], Tensor] = network
        if options.fused_relu:
            graph = with_fused_epilogues(network, card.clip)
        if options.compile:
            with quiet():
                # CUDA graphs are captured here, where they are asked for.
                mode = "max-autotune-no-cudagraphs" if options.autotune else None
                graph = torch.compile(network, dynamic=False, mode=mode)
        return cls(graph, card, precision, options, stored)

    @classmethod
    def open_streams(
        cls,
        artifact: Path,
        card: ModelCard,
        options: RuntimeOptions,
        asked: StreamOptions,
    ) -> TorchStreams:
        """Make the streaming form of fused weights; see `BaseRuntime.open_streams`."""
        for name in cls.options:
            if name != "cuda_graphs" and getattr(options, name):
                raise SpecError(f"torch has no --{name.replace('_', '-')} of streams; leave it out")
        options = _possible(options)
        model, _ = load_model(artifact)
        _check_fused(artifact, card, "streaming")
        precision, stored = options.precision or "fp32", model.stored
        if precision != "fp32":
            halve_trunk(model, _DTYPES[precision])
        network = streaming_form(
            model,
            card.clip,
            frames_per_call=asked.frames_per_call,
            window=DEFAULT_WINDOW_FRAMES if asked.window is None else asked.window,
        )
        if options.device == "cuda":
            _to_gpu(network)
        words = [torch.cuda.get_device_name() if options.device == "cuda" else "CPU"]
        words += ["CUDA graphs"] if options.cuda_graphs else []
        return TorchStreams(
            network,
            precision,
            device=", ".join(words),
            cuda_graphs=options.cuda_graphs,
            stored=stored,
        )

    def run(self, frames: Frames) -> NDArray[np.float32]:
        """Classify clips; see `RunsClips.run`."""
        check_frames(frames, self._card)
        try:
            with torch.inference_mode(), exact(), quiet():
                logits = self._run(_as_tensor(frames))
        except torch.cuda.OutOfMemoryError as error:
            raise ArtifactError(
                f"a batch of {len(frames)} clips does not fit into the memory of {self.device}"
            ) from error
        except RuntimeError as error:  # no compiler for --compile, no kernel for this GPU
            reason = str(error).splitlines()[0]
            raise BackendError(
                f"torch cannot run a batch of {len(frames)} clips on {self.device}: {reason}"
            ) from error
        return np.asarray(logits.float().cpu().numpy(), dtype=np.float32)

    def close(self) -> None:
        """Release the network."""
        self._graph = None
        self._captured = None if self._captured is None else {}
        if self._on_gpu:
            torch.cuda.empty_cache()

    @classmethod
    def sees_gpu(cls) -> bool:
        """Whether there is an NVIDIA GPU, and a torch that is built for it."""
        return bool(gpus()) and torch.cuda.is_available()

    @classmethod
    def ways(cls, card: ModelCard) -> Iterator[RuntimeOptions]:
        """Eager and compiled on the CPU; on the GPU in three precisions and all forms."""
        plain = RuntimeOptions(backend="torch", device="cpu", precision="fp32")
        yield plain
        if card.model.fused:
            yield dataclasses.replace(plain, planar=True)
            yield dataclasses.replace(plain, compile=True)
        if not cls.sees_gpu():
            return
        on_gpu = dataclasses.replace(plain, device="cuda")
        yield on_gpu
        yield dataclasses.replace(on_gpu, precision="fp16")
        if not card.model.fused:
            return
        precisions: tuple[Precision, ...] = ("bf16", "fp16", "fp32")
        for precision in precisions:
            half = dataclasses.replace(on_gpu, precision=precision)
            for way in cls.automatic_ways(card, half):
                if way not in (on_gpu, dataclasses.replace(on_gpu, precision="fp16")):
                    yield way
        for precision in precisions[:2]:
            compiled = dataclasses.replace(on_gpu, precision=precision, compile=True)
            for planar in (False, True):
                way = dataclasses.replace(compiled, planar=planar, cuda_graphs=True)
                yield way
                yield dataclasses.replace(way, autotune=True)

    @classmethod
    def automatic_ways(cls, card: ModelCard, options: RuntimeOptions) -> tuple[RuntimeOptions, ...]:
        """On a GPU every form of a fused network that has what was asked for; none compiled."""
        if not (cls.sees_gpu() and options.device == "cuda" and card.model.fused):
            return (options,)
        if options.compile:
            return (options,)
        forms = [options, dataclasses.replace(options, planar=True)]
        forms.append(dataclasses.replace(options, planar=True, fused_relu=True))
        ways = [dataclasses.replace(form, cuda_graphs=graphs) for form in forms for graphs in _BOTH]
        return tuple(dict.fromkeys(way for way in ways if includes(way, options)))

    @classmethod
    def examine(cls) -> Iterator[Finding]:
        """Which torch is here, and whether it sees the GPU."""
        text = f"{torch.__version__}, {torch.get_num_threads()} threads"
        yield Finding("torch, cpu", "works", text)
        if torch.cuda.is_available():
            cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
            text = f"CUDA {torch.version.cuda}, cuDNN {cudnn}, {torch.cuda.get_device_name()}"
            yield Finding("torch, cuda", "works", text)
        elif gpus():
            built = torch.version.cuda
            yield Finding(
                "torch, cuda",
                "problem",
                f"built for CUDA {built}, but sees no GPU"
                if built
                else "this torch is built for CPUs",
                "install torch for CUDA: https://pytorch.org/get-started/locally",
            )

    def _run(self, frames: Tensor) -> Tensor:
        assert self._graph is not None
        if not self._on_gpu:
            return self._graph(frames.cpu())
        if not frames.is_cuda:
            frames = frames.pin_memory()
        if self._captured is None:
            return self._graph(frames.to("cuda", non_blocking=True))
        if len(frames) not in self._captured:
            self._captured[len(frames)] = _Captured(self._graph, frames)
        return self._captured[len(frames)].replay(frames)


class _Captured:
    """The network at one batch size as a CUDA graph."""

    def __init__(self, graph: Callable[[Tensor], Tensor], frames: Tensor) -> None:
        self._frames = frames.to("cuda", copy=True)  # it is written over
        self._captured, self._logits = captured(lambda: graph(self._frames))

    def replay(self, frames: Tensor) -> Tensor:
        self._frames.copy_(frames, non_blocking=True)
        self._captured.replay()
        return self._logits


def _as_tensor(frames: Frames) -> Tensor:
    """The same frames, on the device where they lie."""
    if isinstance(frames, np.ndarray):
        return torch.from_numpy(np.ascontiguousarray(frames))
    return frames.contiguous()


def network_on(
    device: str, model: ActionModel, clip: ClipSpec, precision: Precision
) -> FramesToLogits:
    """A network with its normalisation, in a precision and on a device.

    Args:
        device: "cpu" or "cuda".
        model: in fp32; its trunk is changed in place for a lower precision.
        clip: what it takes.
        precision: fp32, fp16 or bf16.

    Raises:
        BackendError: torch cannot use the GPU.
    """
    if precision != "fp32":
        halve_trunk(model, _DTYPES[precision])
    graph = FramesToLogits(model, clip).eval()
    if device != "cuda":
        return graph
    _to_gpu(graph)
    align_channels(graph)
    return graph


def _to_gpu(network: nn.Module) -> None:
    """Move a network there, its filters with channels last.

    Raises:
        BackendError: torch cannot use the GPU.
    """
    try:
        network.to("cuda")
    except RuntimeError as error:  # no memory left, or a torch without code for this GPU
        reason = str(error).splitlines()[0]
        raise BackendError(f"torch cannot use this GPU: {reason}") from error
    keep_channels_last(network)


def align_channels(graph: nn.Module) -> None:
    """Fill channels of planar convolutions up to multiples that kernels for half precision want.

    Three colours of seven frames are 21 channels, for which there are slow kernels alone.
    """
    for module in graph.modules():
        if isinstance(module, StackedConv):
            module.align(ALIGNED_CHANNELS)


def keep_channels_last(graph: nn.Module) -> None:
    """Put filters into the layout that kernels for half precision want; what comes of them has it.

    The colours of a pixel lie side by side in frames, too.
    """
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for parameter in graph.parameters():
        if parameter.dim() in formats:
            parameter.data = parameter.data.to(memory_format=formats[parameter.dim()])


def _possible(options: RuntimeOptions) -> RuntimeOptions:
    """Options that can be here, and threads of the CPU as they say.

    Raises:
        BackendError: there are none.
    """
    if options.device == "cuda" and not torch.cuda.is_available():
        if not options.allow_cpu:
            raise BackendError(
                "CUDA was asked for, but torch sees no NVIDIA GPU; see stdeploy doctor, or "
                "pass --allow-cpu"
            )
        options = dataclasses.replace(options, device="cpu", cuda_graphs=False)
    _check_options(options)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    return options


def _check_fused(artifact: Path, card: ModelCard, what: str) -> None:
    if not card.model.fused:
        raise BackendError(
            f"{what} is of fused networks, and {artifact.name!r} is none; run: stdeploy "
            f"fuse {shlex.quote(str(artifact))}"
        )


def _check_options(options: RuntimeOptions) -> None:
    """Refuse what cannot be, before anything is loaded.

    Raises:
        BackendError: it cannot be on this device, or without another option.
    """
    if options.cuda_graphs and options.device != "cuda":
        raise BackendError("--cuda-graphs needs --device cuda")
    if options.autotune and not options.compile:
        raise BackendError("--autotune is of --compile: give both")
    if options.fused_relu and (not options.planar or options.compile):
        raise BackendError(
            "--fused-relu is of --planar, and not of --compile, which fuses by itself"
        )
    precision = options.precision or "fp32"
    if precision not in _DTYPES:
        raise BackendError(
            f"torch has no {precision} here; run: stdeploy export --precision {precision}"
        )
    if precision == "fp16" and options.device == "cpu":
        raise BackendError(
            "torch computes fp16 convolutions on a CPU minutes a clip; use fp32, or bf16"
        )
