"""What can be measured here: every artifact of a network on every backend that runs it."""

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path

from stdeploy.artifacts.card import ModelCard, read_card
from stdeploy.artifacts.files import CHECKPOINT_SUFFIX, ENGINE_SUFFIX, FUSED_SUFFIX, ONNX_SUFFIX
from stdeploy.backends.base import RuntimeOptions
from stdeploy.backends.registry import runtime_class
from stdeploy.backends.selection import backends_for
from stdeploy.errors import ArtifactError, MissingExtraError

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
        is_onnx = self.artifact.name.endswith(ONNX_SUFFIX)  # others say nothing about arithmetic
        own = self.precision == self.card.precision or not is_onnx
        extras = [
            *([] if own else [f"of {self.card.precision}"]),
            *(["compiled"] if self.options.compile else []),
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
        for options in _ways(artifact, card):
            if options.device in devices and (compiled or not options.compile):
                yield Case(artifact, card, options)


def _ways(artifact: Path, card: ModelCard) -> Iterator[RuntimeOptions]:
    for backend in backends_for(artifact):
        try:
            yield from runtime_class(backend).ways(card)
        except MissingExtraError:
            continue
