"""The file beside an engine: what it was built from, by what, and for which GPUs.

Engines are foreign bytes that any TensorRT tool can load, so their card lies beside them. A plan
file is code: nothing is loaded before its digest and its host are checked.
"""

import hashlib
import json
import shlex
from pathlib import Path
from typing import Literal, Self

from stdeploy.card import ModelCard
from stdeploy.errors import ArtifactError, SpecError
from stdeploy.files import existing, sidecar_path
from stdeploy.hardware import Gpu
from stdeploy.spec import Spec

_AMPERE = (8, 0)


class EngineSidecar(Spec):
    """What an engine is.

    Attributes:
        card: of the network, with the parity that was measured on the GPU; without rows where
            the engine was built ahead of time.
        engine_sha256: digest of the engine's bytes.
        flavour: "tensorrt" or "tensorrt_rtx".
        version: of that.
        gpu: that it was built on; None ahead of time.
        targets: compute capabilities that it runs on, such as ("sm86", "sm89").
        hardware_compatible: whether it also runs on any GPU from Ampere on.
        version_compatible: whether it also runs with newer versions.
        batches: the batch that it is fastest at, and its largest; the smallest is 1.
        onnx: name of the file that it was built from.
        onnx_sha256: digest of that file.
    """

    card: ModelCard
    engine_sha256: str
    flavour: Literal["tensorrt", "tensorrt_rtx"]
    version: str
    gpu: str | None
    targets: tuple[str, ...]
    hardware_compatible: bool
    version_compatible: bool
    batches: tuple[int, int]
    onnx: str
    onnx_sha256: str

    @classmethod
    def read(cls, engine: Path) -> Self:
        """Read the sidecar of an engine.

        Raises:
            ArtifactError: no engine, no sidecar, or one that cannot be used.
        """
        path = sidecar_path(existing(engine))
        if not path.is_file():
            raise ArtifactError(
                f"{str(engine)!r} has no {path.name!r} beside it, which says what it is; copy "
                "both files, or build it again with stdeploy export --trt from its .onnx file"
            )
        try:
            return cls.parse(json.loads(path.read_text()))
        except (SpecError, ValueError) as error:
            raise ArtifactError(f"{str(path)!r} cannot be used: {error}") from error

    def rebuild_command(self, engine: Path) -> str:
        """What builds an engine again on another host.

        Args:
            engine: which lies beside the file that it was built from.
        """
        batches = ",".join(str(batch) for batch in self.batches)
        flags = " --hardware-compatible" if self.hardware_compatible else ""
        flags += " --version-compatible" if self.version_compatible else ""
        onnx_file = shlex.quote(str(engine.with_name(self.onnx)))
        return f"stdeploy export {onnx_file} --trt --batches {batches}{flags}"

    def read_engine(self, engine: Path) -> bytes:
        """The bytes of the engine, if they are those that were built.

        Raises:
            ArtifactError: they are not.
        """
        # Read once: what was checked is what is loaded.
        content = engine.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        if digest != self.engine_sha256:
            raise ArtifactError(
                f"{str(engine)!r} is not the file that its sidecar describes (sha256 "
                f"{digest[:12]}..., expected {self.engine_sha256[:12]}...); it is not loaded, "
                f"because an engine is code; run: {self.rebuild_command(engine)}"
            )
        return content

    def mismatch(self, version: str, gpu: Gpu) -> str | None:
        """Why the engine does not fit a host; None if it does.

        Args:
            version: of the same flavour, on this host.
            gpu: of this host.
        """
        if self.version != version and not (
            self.version_compatible and _numbers(self.version) <= _numbers(version)
        ):
            return f"it was built by {self.flavour} {self.version}, here is {version}"
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
    return tuple(int(part) for part in version.split(".") if part.isdigit())
