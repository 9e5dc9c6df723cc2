"""What can be measured, and one process for each case.

So memory is its own, and thread pools do not meet.

`matmul_flops` is the yardstick: the arithmetic that this machine reaches in a matrix product.
"""

import contextlib
import dataclasses
import importlib.util
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stdeploy.artifacts.card import ModelCard, read_card
from stdeploy.artifacts.files import (
    AOT_SUFFIX,
    CHECKPOINT_SUFFIX,
    ENGINE_SUFFIX,
    FLOAT_INPUT,
    FUSED_SUFFIX,
    ONNX_SUFFIX,
)
from stdeploy.artifacts.golden import golden_clip
from stdeploy.artifacts.parity import relative_error, scale_of
from stdeploy.backends.base import RuntimeOptions, runtime_class
from stdeploy.backends.loader import open_runtime
from stdeploy.backends.selection import backends_for
from stdeploy.errors import ArtifactError, MissingExtraError
from stdeploy.hardware import cpu_multiplies

_SUFFIXES = (CHECKPOINT_SUFFIX, FUSED_SUFFIX, ONNX_SUFFIX, ENGINE_SUFFIX, AOT_SUFFIX)


@dataclasses.dataclass(frozen=True)
class Case:
    """One artifact on one backend.

    Attributes:
        artifact: the file.
        card: its card.
        options: backend, device and precision, none of them "auto".
    """

    artifact: Path
    card: ModelCard
    options: RuntimeOptions

    @property
    def precision(self) -> str:
        """Arithmetic of the convolutions."""
        return self.options.precision or self.card.precision

    @property
    def name(self) -> str:
        """In a table: "openvino cpu fp32"; the network with its branches says so."""
        is_onnx = self.artifact.name.endswith(ONNX_SUFFIX)  # others say nothing about arithmetic
        own = self.precision == self.card.precision or not is_onnx
        extras = [
            *([] if own else [f"of {self.card.precision}"]),
            *(["planar"] if self.card.form == "planar" or self.options.planar else []),
            *(["stream"] if self.card.stream is not None else []),
            *(["fused relu"] if self.options.fused_relu else []),
            *(["compiled"] if self.options.compile else []),
            *(["autotuned"] if self.options.autotune else []),
            *(["channels last"] if self.options.channels_last else []),
            *(["graphs"] if self.options.cuda_graphs else []),
            *(["unfused"] if not self.card.model.fused else []),
        ]
        words = [self.options.backend, self.options.device, self.precision, *extras]
        return " ".join(words)

    @property
    def title(self) -> str:
        """With the artifact: "torch cpu fp32, a.onnx"."""
        return f"{self.name}, {self.artifact.name}"

    @property
    def is_baseline(self) -> bool:
        """Whether this is the network as it was trained: branches and norms, eager float32."""
        return not self.card.model.fused and not self.options.compile

    @property
    def command(self) -> str:
        """What a user types to run videos so."""
        options = [f"--backend {self.options.backend}", f"--device {self.options.device}"]
        if self.precision != self.card.precision:
            options.append(f"--precision {self.precision}")
        options += ["--compile"] if self.options.compile else []
        options += ["--autotune"] if self.options.autotune else []
        options += ["--planar"] if self.options.planar else []
        options += ["--fused-relu"] if self.options.fused_relu else []
        options += ["--cuda-graphs"] if self.options.cuda_graphs else []
        options += ["--channels-last"] if self.options.channels_last else []
        return f"stdeploy classify VIDEO -m {self.artifact} {' '.join(options)}"


def artifacts_of(folder: Path, stem: str) -> list[Path]:
    """The artifacts of one network: stem.pt, stem.fused.safetensors, stem.onnx, stem.int8.onnx...

    Args:
        folder: where they lie.
        stem: the name before the first of those suffixes.
    """
    found = [
        path
        for path in sorted(folder.iterdir())
        if path.name.endswith(_SUFFIXES) and path.name.startswith(f"{stem}.")
    ]
    return sorted(found, key=lambda path: [path.name.endswith(s) for s in reversed(_SUFFIXES)])


def newest_stem(folder: Path) -> str:
    """The name of the network that was fused last in a folder.

    Raises:
        ArtifactError: none was.
    """
    fused = [p for p in folder.iterdir() if p.name.endswith((FUSED_SUFFIX, ONNX_SUFFIX))]
    fused = [path for path in fused if not path.name.startswith(".")]
    if not fused:
        raise ArtifactError(
            f"nothing to measure in {str(folder.resolve())!r}; run stdeploy export, or name files"
        )
    newest = max(fused, key=lambda path: path.stat().st_mtime_ns).name
    stem = newest.removesuffix(FUSED_SUFFIX).removesuffix(ONNX_SUFFIX)
    # As names are made: ckpt.planar.int8.float-ncthw.onnx.
    for middle in (FLOAT_INPUT, ".fp16", ".bf16", ".int8", ".planar"):
        stem = stem.removesuffix(middle)
    return stem


def cases_for(
    artifacts: Iterable[Path], *, devices: tuple[str, ...], compiled: bool
) -> Iterator[Case]:
    """Every way in which artifacts can be run here.

    Args:
        artifacts: .pt, .fused.safetensors, .onnx or .engine files.
        devices: of "cpu" and "cuda".
        compiled: also torch.compile, whose first run takes minutes.
    """
    for artifact in artifacts:
        card = read_card(artifact)
        for options in _ways(artifact, card):
            if options.device in devices and (compiled or not options.compile):
                yield Case(artifact, card, options)


def _ways(artifact: Path, card: ModelCard) -> Iterator[RuntimeOptions]:
    for backend in backends_for(artifact):
        try:
            yield from runtime_class(backend).ways(card)
        except MissingExtraError:
            continue


# Other work that interrupts one thread of a product makes the others wait. A small product is over
# before that; a large one uses more of a machine that is free.
_MATRIX_SIDES = {"cpu": (256, 512, 1024, 2048), "cuda": (8192,)}
_PRODUCT_SECONDS, _PRODUCTS = 0.3, 4  # at least, of each side; clocks rise with the work


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A case that was opened.

    Attributes:
        seconds: from the file to the answer to the golden clip, imports apart.
        error: relative error of the golden clip against the float32 parent.
        device: where it runs, in words.
    """

    seconds: float
    error: float
    device: str


@dataclasses.dataclass(frozen=True)
class Turn:
    """One turn of a case.

    Attributes:
        seconds: of every run.
        peak_bytes: largest memory of the process so far.
        gpu_bytes: memory of the GPU that the process holds; None where that is not known.
    """

    seconds: tuple[float, ...]
    peak_bytes: int
    gpu_bytes: int | None


class FailedError(Exception):
    """A case that cannot be measured; the others go on."""


class Worker:
    """A process that opens a case and runs it when asked; a context manager.

    Args:
        case: what it runs; None for one that only multiplies matrices.
    """

    def __init__(self, case: Case | None) -> None:
        # A fresh interpreter: what one backend loaded must not be in the memory of another.
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(case, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def load(self) -> Loaded:
        """Open the case, and make it answer the golden clip."""
        loaded: Loaded = self._ask("load")
        return loaded

    def turn(self, batch: int, seconds: float) -> Turn:
        """Run a batch again and again for some time, at least once."""
        turn: Turn = self._ask("turn", batch, seconds)
        return turn

    def peak(self, device: str, precision: str) -> float | None:
        """Arithmetic of a large matrix product, in operations per second."""
        peak: float | None = self._ask("peak", device, precision)
        return peak

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join(timeout=10)
        if self._process.is_alive():
            self._process.kill()

    def _ask(self, *question: object) -> Any:
        try:
            self._pipe.send(question)
            answer = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise FailedError("its process died; is there enough memory?") from error
        if isinstance(answer, str):
            raise FailedError(answer)
        return answer


def _gpu_bytes() -> int | None:
    """Memory of the GPU that this process holds; None where the driver does not say."""
    query, layout = "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"
    try:
        result = subprocess.run(
            ["nvidia-smi", query, layout], capture_output=True, text=True, timeout=20, check=True
        )
        held = dict(line.split(", ") for line in result.stdout.splitlines())
        return int(held[str(os.getpid())]) << 20
    except (OSError, subprocess.SubprocessError, ValueError, LookupError):
        return None


def _serve(case: Case | None, pipe: Connection) -> None:
    """The loop of the process: one answer to each question, text where it failed."""
    server = _Server(case)
    while True:
        try:
            name, *arguments = pipe.recv()
        except (EOFError, KeyboardInterrupt):
            return
        try:
            pipe.send(getattr(server, name)(*arguments))
        except Exception as error:  # the row of this case says what it was
            pipe.send(f"{type(error).__name__}: {' '.join(str(error).split())}"[:300])


class _Server:
    def __init__(self, case: Case | None) -> None:
        self._case = case
        self._runtime: Any = None
        self._frames: NDArray[np.uint8] | None = None
        self._gpu: dict[int, int | None] = {}
        if case is not None:
            with contextlib.suppress(Exception):  # what is wrong shows when it is opened
                runtime_class(case.options.backend)  # its library, before anybody waits for it

    def load(self) -> Loaded:
        case = self._case
        assert case is not None
        clip = golden_clip(case.card.golden.seed, case.card.clip.frames_shape)[None]
        start = time.perf_counter()
        self._runtime = open_runtime(case.artifact, case.card, case.options)
        seconds = time.perf_counter() - start
        golden = case.card.golden
        expected = np.asarray(golden.logits)[None]
        answer = self._runtime.run(clip).astype(np.float64)
        error = relative_error(expected, answer, scale_of(expected, golden.magnitude))
        return Loaded(seconds, error, self._runtime.device)

    def turn(self, batch: int, seconds: float) -> Turn:
        assert self._case is not None
        shape = self._case.card.clip.frames_shape
        if self._frames is None or len(self._frames) != batch:  # they take longer than many a run
            self._frames = np.stack([golden_clip(seed, shape) for seed in range(batch)])
        frames = self._frames
        self._runtime.run(frames)  # not counted: memory of this batch size, kernels, caches
        taken: list[float] = []
        while not taken or sum(taken) < seconds:
            start = time.perf_counter()
            self._runtime.run(frames)
            taken.append(time.perf_counter() - start)
        return Turn(tuple(taken), _peak_bytes(), self._held(batch))

    def peak(self, device: str, precision: str) -> float | None:
        return matmul_flops(device, precision)

    def _held(self, batch: int) -> int | None:
        """Memory of the GPU, asked for once a batch size: the answer takes longer than a turn."""
        assert self._case is not None
        if batch not in self._gpu:
            on_gpu = self._case.options.device == "cuda"
            self._gpu[batch] = _gpu_bytes() if on_gpu else None
        return self._gpu[batch]


def _peak_bytes() -> int:
    """Largest memory of this process."""
    try:
        # Not getrusage: what the parent held before it started this process counts there.
        lines = Path("/proc/self/status").read_text().splitlines()
        (peak,) = [line for line in lines if line.startswith("VmHWM:")]
        return int(peak.split()[1]) << 10
    except (OSError, ValueError):
        import resource

        largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return largest if sys.platform == "darwin" else largest << 10


def matmul_flops(device: str, precision: str) -> float | None:
    """Operations per second of a product of square matrices, two for each multiply-accumulate.

    Args:
        device: "cpu" or "cuda".
        precision: "fp32", "fp16", "bf16" or "int8".

    Returns:
        The best of several sizes and many products; None where there is no such product here.
    """
    found: list[float | None] = []
    if (device, precision) == ("cpu", "fp32"):
        found += map(_numpy_flops, _MATRIX_SIDES[device])
    if importlib.util.find_spec("torch"):
        found += (_torch_flops(device, precision, side) for side in _MATRIX_SIDES[device])
    return max((flops for flops in found if flops is not None), default=None)


def _numpy_flops(side: int) -> float:
    matrix = np.random.default_rng(0).standard_normal((side, side), dtype=np.float32)
    return _best(lambda: matrix @ matrix, side)


def _torch_flops(device: str, precision: str, side: int) -> float | None:
    import torch

    if device == "cpu" and precision == "fp16":
        precision = "fp32"  # what backends compute fp16 in on a CPU
    if device == "cpu" and precision != "fp32" and not cpu_multiplies(precision):
        return None  # torch would loop over the numbers, slower than in fp32: no yardstick
    if precision == "int8":
        a = torch.randint(-128, 128, (side, side), dtype=torch.int8, device=device)
    else:
        dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
        a = torch.randn(side, side, device=device).to(dtype)
    b = a.t().contiguous().t()  # what int8 kernels of a GPU ask for
    # torch.mm in fp32 is MKL, which leaves AVX-512 unused on processors of AMD. oneDNN does not.
    has_onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    onednn = (device, precision) == ("cpu", "fp32") and has_onednn
    if onednn:
        a = a.to_mkldnn()

    def product() -> None:
        if onednn:
            torch.nn.functional.linear(a, a)
        elif precision == "int8":
            torch._int_mm(a, b)
        else:
            torch.mm(a, b)
        if device == "cuda":
            torch.cuda.synchronize()

    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        return _best(product, side)
    except RuntimeError:
        return None


def _best(product: Callable[[], object], side: int) -> float:
    """Operations per second of the fastest of many products."""
    taken: list[float] = []
    while sum(taken) < _PRODUCT_SECONDS or len(taken) < _PRODUCTS:
        start = time.perf_counter()
        product()
        taken.append(time.perf_counter() - start)
    return 2 * side**3 / min(taken)
