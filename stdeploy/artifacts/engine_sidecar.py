"""The file beside an engine of TensorRT: what it was built from, by what, and for which GPUs."""

import shlex
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from stdeploy.artifacts.card import ModelCard
from stdeploy.artifacts.files import ONNX_SUFFIX
from stdeploy.artifacts.sidecar import Sidecar, name_beside
from stdeploy.artifacts.values import Line
from stdeploy.hardware import Gpu

_AMPERE = (8, 0)
_Batch = Annotated[int, Field(ge=1, le=1 << 16)]


class EngineSidecar(Sidecar):
    """What an engine is.

    Attributes:
        card: of the network, with the parity that was measured on the GPU; without rows where
            the engine was built ahead of time.
        engine_sha256: digest of the engine's bytes.
        distribution: "tensorrt" or "tensorrt_rtx".
        version: of that.
        gpu: that it was built on; None ahead of time.
        targets: compute capabilities that it runs on, such as ("sm86", "sm89").
        hardware_compatible: whether it also runs on any GPU from Ampere on.
        version_compatible: whether it also runs with newer versions.
        batches: the batch that it is fastest at, and its largest; the smallest is 1.
        onnx: name of the file that it was built from.
        onnx_sha256: digest of that file.
    """

    model_config = ConfigDict(validate_by_name=True, serialize_by_alias=True)

    card: ModelCard
    engine_sha256: Line
    # The files have called it so from the first.
    distribution: Literal["tensorrt", "tensorrt_rtx"] = Field(alias="flavour")
    version: Line
    gpu: Line | None
    targets: tuple[Line, ...]
    hardware_compatible: bool
    version_compatible: bool
    batches: tuple[_Batch, _Batch]
    onnx: Line
    onnx_sha256: Line

    @field_validator("onnx")
    @classmethod
    def _name_alone(cls, name: str) -> str:
        return name_beside(name, ONNX_SUFFIX)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.batches[0] > self.batches[1]:
            raise ValueError(f"batches {self.batches}: the largest comes last")
        return self

    @property
    def code_sha256(self) -> Line:
        """Digest of the engine's bytes."""
        return self.engine_sha256

    def rebuild_command(self, artifact: Path) -> str:
        """What builds an engine again on another host; see `Sidecar.rebuild_command`."""
        batches = ",".join(str(batch) for batch in self.batches)
        flags = " --hardware-compatible" if self.hardware_compatible else ""
        flags += " --version-compatible" if self.version_compatible else ""
        onnx_file = shlex.quote(str(artifact.with_name(self.onnx)))
        return f"stdeploy export {onnx_file} --trt --batches {batches}{flags}"

    def mismatch(self, version: str, gpu: Gpu) -> str | None:
        """Why the engine does not fit a host; None if it does.

        Args:
            version: of the same distribution, on this host.
            gpu: of this host.
        """
        if self.version != version and not (
            self.version_compatible and _numbers(self.version) <= _numbers(version)
        ):
            return f"it was built by {self.distribution} {self.version}, here is {version}"
        if gpu.target in self.targets:
            return None
        if self.hardware_compatible and gpu.compute_capability >= _AMPERE:
            return None
        built_on = f" on {self.gpu}" if self.gpu else ""
        return (
            f"it was built for {', '.join(self.targets)}{built_on}, here is {gpu.name} "
            f"({gpu.target})"
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal())
