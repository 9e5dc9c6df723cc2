"""Engines as files: built and written with their sidecar, or built again for another host."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from stdeploy.artifacts.card import ModelCard, read_card
from stdeploy.artifacts.engine_sidecar import EngineSidecar
from stdeploy.artifacts.files import (
    existing,
    sha256_of,
    unfinished_folder,
    whole_file,
)
from stdeploy.artifacts.sidecar import move_with_sidecar
from stdeploy.backends.tensorrt_builder import (
    BuildOptions,
    Distribution,
    Progress,
    build_plan,
    import_distribution,
)
from stdeploy.errors import ArtifactError
from stdeploy.hardware import gpus


def write_engine(
    onnx_file: Path,
    card: ModelCard,
    path: Path,
    distribution: Distribution,
    options: BuildOptions,
    *,
    timing_cache: Path | None = None,
    progress: Progress = lambda _what, _done, _total: None,
) -> EngineSidecar:
    """Build an engine and write it with its sidecar, which has no parity rows yet.

    Args:
        onnx_file: a verified file.
        card: its card.
        path: where the engine goes; its sidecar goes beside it.
        distribution: which TensorRT.
        options: batches, targets, compatibility.
        timing_cache: read if it is there, and written; makes the next build faster.
        progress: is told what is done, how much of it and of how much.

    Raises:
        ArtifactError: TensorRT cannot parse the file.
        BackendError: TensorRT cannot build it here.
    """
    plan = build_plan(
        onnx_file, card, distribution, options, timing_cache=timing_cache, progress=progress
    )
    gpu = None if options.targets else gpus()[0]
    onnx_sha256 = sha256_of(onnx_file)
    lineage = card.lineage.model_copy(
        update={
            "parent": onnx_file.name,
            "parent_sha256": onnx_sha256,
            "versions": {**card.lineage.versions, distribution.name: distribution.version},
        }
    )
    with whole_file(path) as temporary:
        temporary.write_bytes(plan)
        sidecar = EngineSidecar(
            card=card.model_copy(update={"lineage": lineage, "parity": ()}),
            engine_sha256=sha256_of(temporary),
            distribution=distribution.name,
            version=distribution.version,
            gpu=gpu.name if gpu else None,
            targets=(gpu.target,) if gpu else options.targets,
            hardware_compatible=options.hardware_compatible,
            version_compatible=options.version_compatible,
            batches=options.batches,
            onnx=onnx_file.name,
            onnx_sha256=onnx_sha256,
        )
        # Before the engine takes its name: between the two, the digests differ and nothing loads.
        sidecar.write(path)
    return sidecar


def timing_path(engine: Path) -> Path:
    """Where the timing cache of an engine is kept, beside it."""
    return engine.with_name(f"{engine.name}.timing")


@contextlib.contextmanager
def rebuilt(engine: Path, sidecar: EngineSidecar) -> Iterator[Path]:
    """Build an engine again for this host, from the .onnx file beside it.

    Yields:
        The new engine in a folder beside the old one, which it replaces when the block ends
        without an error.

    Raises:
        ArtifactError: that file is not there, or is another one.
        BackendError: this host cannot build it.
    """
    onnx_file = existing(engine.with_name(sidecar.onnx))
    if sha256_of(onnx_file) != sidecar.onnx_sha256:
        raise ArtifactError(
            f"{str(onnx_file)!r} is not the file that {engine.name!r} was built from; run: "
            f"{sidecar.rebuild_command(engine)}"
        )
    options = BuildOptions(
        batches=sidecar.batches,
        hardware_compatible=sidecar.hardware_compatible,
        version_compatible=sidecar.version_compatible,
    )
    with unfinished_folder(engine.parent) as folder:
        unproven = folder / engine.name
        write_engine(
            onnx_file,
            read_card(onnx_file),
            unproven,
            import_distribution(sidecar.distribution),
            options,
            timing_cache=timing_path(engine),
        )
        yield unproven
        move_with_sidecar(unproven, engine)
