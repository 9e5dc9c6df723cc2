"""The file beside a package of AOTInductor: what it was compiled from, by which torch, for what."""

import shlex
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator

from stdeploy.artifacts.files import FUSED_SUFFIX
from stdeploy.artifacts.sidecar import Sidecar, name_beside
from stdeploy.artifacts.values import Line


class AotSidecar(Sidecar):
    """What a package is.

    Attributes:
        card: of the network, with the parity that was measured where it was compiled; the form is
            that of the code.
        package_sha256: digest of the package's bytes.
        torch: version that compiled it, which alone runs it.
        gpu: that it was compiled on; None for a processor.
        target: what runs it: a compute capability, such as "sm90", or the name of a processor.
        batch: clips that its kernels were chosen for; it takes any number.
        autotuned: whether all kernels were timed for that.
        fused: name of the file that it was compiled from.
        fused_sha256: digest of that file.
    """

    package_sha256: Line
    torch: Line
    gpu: Line | None
    target: Line
    batch: Annotated[int, Field(ge=1, le=1 << 16)]
    autotuned: bool
    fused: Line
    fused_sha256: Line

    @field_validator("fused")
    @classmethod
    def _name_alone(cls, name: str) -> str:
        return name_beside(name, FUSED_SUFFIX)

    @property
    def code_sha256(self) -> Line:
        """Digest of the package's bytes."""
        return self.package_sha256

    @property
    def device(self) -> str:
        """What it runs on: "cuda" or "cpu"."""
        return "cpu" if self.gpu is None else "cuda"

    def rebuild_command(self, artifact: Path) -> str:
        """What compiles a package again on another host; see `Sidecar.rebuild_command`."""
        options = [f"--device {self.device}", f"--batches {self.batch},{self.batch}"]
        options += [] if self.card.precision == "fp32" else [f"--precision {self.card.precision}"]
        options += [] if self.card.form == "conv3d" else [f"--form {self.card.form}"]
        options += ["--autotune"] if self.autotuned else []
        fused = shlex.quote(str(artifact.with_name(self.fused)))
        return f"stdeploy export {fused} --aot {' '.join(options)}"

    def mismatch(self, torch: str, target: str, name: str) -> str | None:
        """Why the package does not fit a host; None if it does.

        Args:
            torch: version on this host.
            target: of this host, as above.
            name: of its GPU or processor, in words.
        """
        if self.torch != torch:
            return f"it was compiled by torch {self.torch}, here is {torch}"
        if self.target == target:
            return None
        compiled = self.target if self.gpu is None else f"{self.target} on {self.gpu}"
        here = name if target == name else f"{name} ({target})"
        return f"it was compiled for {compiled}, here is {here}"
