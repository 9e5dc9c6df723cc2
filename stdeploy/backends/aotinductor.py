"""AOTInductor: networks that torch compiled ahead of time for a GPU or a processor."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from stdeploy.artifacts.aot_sidecar import AotSidecar
from stdeploy.artifacts.card import ModelCard
from stdeploy.backends.base import DeviceType, Finding, RuntimeOptions
from stdeploy.backends.torch import TorchRuntime
from stdeploy.errors import ArtifactError, BackendError
from stdeploy.optional_packages import require

require("torch", extra="train", purpose="running an .aot.pt2 file")

import torch  # noqa: E402 - after the check for it

from stdeploy.backends.aot_package import host_of, load_package, rebuilt  # noqa: E402


class AotInductorRuntime(TorchRuntime):
    """A package of AOTInductor, which needs no compiler to be opened."""

    name = "aotinductor"
    options = ("cuda_graphs", "rebuild")

    @classmethod
    def open(cls, artifact: Path, card: ModelCard, options: RuntimeOptions) -> Self:
        """Load an artifact; see `BaseRuntime.open`.

        Nothing of the file is given to torch before its digest, the version of torch and the GPU or
        processor were compared with the sidecar.
        """
        sidecar = AotSidecar.read(artifact)
        cls.as_written(artifact, card, options)
        if options.device != sidecar.device:
            raise BackendError(
                f"{artifact.name!r} runs on {sidecar.gpu or sidecar.target}, for which it was "
                f"compiled; leave --device {options.device} out"
            )
        if options.cuda_graphs and options.device != "cuda":
            raise BackendError(f"{artifact.name!r} runs on a CPU, which has no CUDA graphs")
        content = sidecar.read_code(artifact)
        reason = sidecar.mismatch(torch.__version__, *host_of(cls.automatic_device(artifact)))
        if reason is not None and options.rebuild:
            return cls._rebuilt(artifact, sidecar, options)
        if reason is not None:
            raise ArtifactError(
                f"{str(artifact)!r} does not fit this host: {reason}; run: "
                f"{sidecar.rebuild_command(artifact)}, or pass --rebuild"
            )
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        return cls(load_package(content), card, card.precision, options)

    @classmethod
    def automatic_device(cls, artifact: Path) -> DeviceType:
        """What the package was compiled for."""
        return "cpu" if AotSidecar.read(artifact).gpu is None else "cuda"

    @classmethod
    def ways(cls, card: ModelCard) -> Iterator[RuntimeOptions]:
        """On the GPU with and without CUDA graphs; a package that is not for this host fails."""
        if card.precision not in cls.precisions:
            return
        if not cls.sees_gpu():
            yield RuntimeOptions(backend="aotinductor", device="cpu")
            return
        yield RuntimeOptions(backend="aotinductor", device="cuda")
        yield RuntimeOptions(backend="aotinductor", device="cuda", cuda_graphs=True)

    @classmethod
    def automatic_ways(
        cls,
        card: ModelCard,  # noqa: ARG003 - overridden
        options: RuntimeOptions,
    ) -> tuple[RuntimeOptions, ...]:
        """On a GPU as a CUDA graph or not."""
        if options.device != "cuda" or options.cuda_graphs or not cls.sees_gpu():
            return (options,)
        return (options, dataclasses.replace(options, cuda_graphs=True))

    @classmethod
    def examine(cls) -> Iterator[Finding]:
        """Nothing beside what torch says."""
        yield from ()

    @classmethod
    def _rebuilt(cls, artifact: Path, sidecar: AotSidecar, options: RuntimeOptions) -> Self:
        """Compile for this host; the old package goes when the new one has answered rightly."""
        from stdeploy.backends.loader import golden_row

        with rebuilt(artifact, sidecar) as unproven:
            runtime = cls.open(unproven, sidecar.card, dataclasses.replace(options, rebuild=False))
            try:
                row = golden_row(runtime, sidecar.card, source=artifact.name)
                AotSidecar.read(unproven).with_parity(row).write(unproven)
            except BaseException:
                runtime.close()
                raise
        return runtime
