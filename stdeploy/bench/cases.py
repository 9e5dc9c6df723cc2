"""What can be measured here: every artifact of a network on every backend that runs it."""

import dataclasses
import importlib.util
from collections.abc import Iterable, Iterator
from pathlib import Path

from stdeploy.card import ModelCard, read_card
from stdeploy.engine.flavour import usable_flavours
from stdeploy.errors import ArtifactError
from stdeploy.files import CHECKPOINT_SUFFIX, ENGINE_SUFFIX, FUSED_SUFFIX, ONNX_SUFFIX
from stdeploy.hardware import cpu_multiplies, gpus
from stdeploy.runtime.base import RuntimeOptions
from stdeploy.runtime.choice import onnxruntime_has_gpu

_SUFFIXES = (CHECKPOINT_SUFFIX, FUSED_SUFFIX, ONNX_SUFFIX, ENGINE_SUFFIX)


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
        own = self.precision == self.card.precision or self.options.backend == "torch"
        extras = [
            *([] if own else [f"of {self.card.precision}"]),
            *(["compiled"] if self.options.compile else []),
            *(["graphs"] if self.options.cuda_graphs else []),
            *(["unfused"] if not self.card.model.fused else []),
        ]
        words = [self.options.backend, self.options.device, self.precision, *extras]
        return " ".join(words)

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
        options += ["--cuda-graphs"] if self.options.cuda_graphs else []
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
    for precision in ("fp16", "bf16", "int8"):
        stem = stem.removesuffix(f".{precision}")
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
        for options in _ways(artifact, card, compiled=compiled):
            if options.device in devices:
                yield Case(artifact, card, options)


def _ways(artifact: Path, card: ModelCard, *, compiled: bool) -> Iterator[RuntimeOptions]:
    if artifact.suffix == ENGINE_SUFFIX:
        if gpus() and list(usable_flavours()):
            yield RuntimeOptions(backend="tensorrt", device="cuda")
            yield RuntimeOptions(backend="tensorrt", device="cuda", cuda_graphs=True)
    elif artifact.suffix == ONNX_SUFFIX:
        yield from _onnx_ways(card)
    else:
        yield from _torch_ways(card, compiled=compiled)


def _onnx_ways(card: ModelCard) -> Iterator[RuntimeOptions]:
    if importlib.util.find_spec("onnxruntime") and card.precision != "bf16":
        yield RuntimeOptions(backend="onnxruntime", device="cpu")
        if onnxruntime_has_gpu():
            yield RuntimeOptions(backend="onnxruntime", device="cuda")
    if importlib.util.find_spec("openvino"):
        if card.precision in ("fp32", "int8"):
            yield RuntimeOptions(backend="openvino", device="cpu")
        if card.precision in ("fp32", "bf16") and cpu_multiplies("bf16"):
            yield RuntimeOptions(backend="openvino", device="cpu", precision="bf16")


def _torch_ways(card: ModelCard, *, compiled: bool) -> Iterator[RuntimeOptions]:
    if not importlib.util.find_spec("torch"):
        return
    yield RuntimeOptions(backend="torch", device="cpu", precision="fp32")
    if compiled and card.model.fused:
        yield RuntimeOptions(backend="torch", device="cpu", precision="fp32", compile=True)
    if not gpus():
        return
    import torch

    if not torch.cuda.is_available():
        return
    yield RuntimeOptions(backend="torch", device="cuda", precision="fp32")
    yield RuntimeOptions(backend="torch", device="cuda", precision="fp16")
    if card.model.fused:
        for graphs in (False, True):
            yield RuntimeOptions(
                backend="torch", device="cuda", precision="bf16", cuda_graphs=graphs
            )
        if compiled:
            yield RuntimeOptions(backend="torch", device="cuda", precision="fp16", compile=True)
