"""Which TensorRT is here, and from a verified .onnx file to the bytes of its plan.

TensorRT 10.16 to 11 and TensorRT-RTX have the same API.

Networks are strongly typed: precision comes from the types and the Q/DQ nodes of the file, as
TensorRT 11 and TensorRT-RTX have it. Nothing here needs a GPU; TensorRT itself does, unless
TensorRT-RTX builds for named targets.
"""

import dataclasses
import functools
import importlib
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from stdeploy.artifacts.card import ModelCard
from stdeploy.artifacts.files import whole_file
from stdeploy.errors import ArtifactError, BackendError, SpecError
from stdeploy.optional_packages import pip_install, with_our_pip

if TYPE_CHECKING:
    import tensorrt as trt

DistributionName = Literal["tensorrt", "tensorrt_rtx"]
EXTRAS: dict[DistributionName, str] = {"tensorrt": "trt", "tensorrt_rtx": "rtx"}


@dataclasses.dataclass(frozen=True)
class Distribution:
    """An importable TensorRT.

    Attributes:
        name: "tensorrt" or "tensorrt_rtx".
        version: of its libraries, such as "11.4.0.106".
        api: the module.
    """

    name: DistributionName
    version: str
    api: Any = dataclasses.field(repr=False, compare=False)


def import_distribution(name: DistributionName) -> Distribution:
    """Import one distribution.

    Raises:
        BackendError: it is not installed, or its libraries cannot be loaded.
    """
    if importlib.util.find_spec(name) is None:
        run = with_our_pip(pip_install(EXTRAS[name]))
        raise BackendError(f"{name} is not installed; run: {run}")
    try:
        module = importlib.import_module(name)
    except (ImportError, OSError) as error:
        raise BackendError(f"{name} is installed but cannot be loaded: {error}") from error
    return Distribution(name, module.__version__, module)


def usable_distributions() -> Iterator[Distribution]:
    """What is here, TensorRT before TensorRT-RTX."""
    for name in EXTRAS:
        try:
            yield import_distribution(name)
        except BackendError:
            continue


class Messages:
    """What TensorRT logs: errors are kept, to be raised where a call only returns nothing."""

    def __init__(self, distribution: Distribution) -> None:
        api = distribution.api
        errors: list[str] = []

        class Log(api.ILogger):  # type: ignore[misc,name-defined]  # a class of a module found late
            def __init__(self) -> None:
                api.ILogger.__init__(self)

            def log(self, severity: "trt.ILogger.Severity", msg: str) -> None:
                if severity in (api.ILogger.Severity.ERROR, api.ILogger.Severity.INTERNAL_ERROR):
                    errors.append(" ".join(msg.split()))

        self._errors = errors
        self.logger: trt.ILogger = Log()

    def last(self) -> str:
        """The last error, or that there was none."""
        return self._errors[-1] if self._errors else "TensorRT gave no reason"

    def clear(self) -> None:
        """Forget what was logged."""
        self._errors.clear()


@functools.cache
def messages_of(distribution: Distribution) -> Messages:
    """The messages of a distribution: one logger a process, because TensorRT keeps the first."""
    return Messages(distribution)


# Is told what is being done, how much of it is done and how much there is.
Progress = Callable[[str, int, int], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """How to build an engine.

    Attributes:
        batches: the batch to be fastest at, and the largest one; the smallest is always 1.
        targets: compute capabilities to build for without a GPU, such as ("sm86", "sm89");
            TensorRT-RTX only. None of them: the GPU of this host.
        workspace_gib: memory that a tactic may take, in GiB.
        hardware_compatible: run on any GPU from Ampere on; TensorRT only.
        version_compatible: run with newer TensorRT; TensorRT only.
    """

    batches: tuple[int, int] = (1, 8)
    targets: tuple[str, ...] = ()
    workspace_gib: float = 4.0
    hardware_compatible: bool = False
    version_compatible: bool = False


def build_plan(
    onnx_file: Path,
    card: ModelCard,
    distribution: Distribution,
    options: BuildOptions,
    *,
    timing_cache: Path | None = None,
    progress: Progress = lambda _what, _done, _total: None,
) -> bytes:
    """Build a plan.

    Args:
        onnx_file: a verified file.
        card: its card.
        distribution: which TensorRT.
        options: batches, targets, compatibility.
        timing_cache: read if it is there, and written; makes the next build faster.
        progress: is told what is done, how much of it and of how much.

    Raises:
        ArtifactError: TensorRT cannot parse the file; unsupported nodes are named.
        BackendError: TensorRT cannot build it here.
        SpecError: options that this distribution does not have.
    """
    api = distribution.api
    messages = messages_of(distribution)
    messages.clear()
    try:
        builder = api.Builder(messages.logger)
    except (TypeError, RuntimeError) as error:  # what the bindings make of a null pointer
        raise BackendError(f"{distribution.name} cannot start here: {messages.last()}") from error
    network = builder.create_network(1 << int(api.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = api.OnnxParser(network, messages.logger)
    _parse(parser, onnx_file, distribution)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(api.MemoryPoolType.WORKSPACE, int(options.workspace_gib * 2**30))
    config.profiling_verbosity = api.ProfilingVerbosity.DETAILED
    config.clear_flag(api.BuilderFlag.TF32)  # 10 bits of a factor are not float32
    if distribution.name == "tensorrt_rtx":
        _set_targets(config, distribution, options)
    else:
        _set_compatibility(config, distribution, options)
    if distribution.name == "tensorrt_rtx":
        timing_cache = None  # it compiles kernels when an engine is loaded, and times none
    _read_timing_cache(config, timing_cache)
    profile = builder.create_optimization_profile()
    shapes = [(batch, *card.input_shape) for batch in (1, *options.batches)]
    profile.set_shape("frames", *shapes)
    config.add_optimization_profile(profile)
    config.progress_monitor = _monitor(distribution, progress)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BackendError(
            f"{distribution.name} {distribution.version} cannot build {onnx_file.name!r}: "
            f"{messages.last()}"
        )
    _write_timing_cache(config, timing_cache)
    return bytes(plan)


def _parse(parser: "trt.OnnxParser", onnx_file: Path, distribution: Distribution) -> None:
    if parser.parse_from_file(str(onnx_file)):
        return
    reasons = [_reason(parser.get_error(number)) for number in range(parser.num_errors)]
    raise ArtifactError(
        f"{distribution.name} {distribution.version} cannot parse {str(onnx_file)!r}: "
        + ("; ".join(dict.fromkeys(reasons)) or "no reason given")
    )


def _reason(error: "trt.ParserError") -> str:
    where = f"{error.node_operator()} node {error.node_name()!r}"
    return f"{where}: {' '.join(error.desc().split())}"


def _set_targets(
    config: "trt.IBuilderConfig", distribution: Distribution, options: BuildOptions
) -> None:
    """TensorRT-RTX alone has targets; they are also how it becomes compatible with others."""
    if options.hardware_compatible or options.version_compatible:
        raise SpecError(
            "TensorRT-RTX has no compatibility options; name the GPUs with --target sm86,sm89"
        )
    known = dict(distribution.api.ComputeCapability.__members__)
    check_targets(options.targets, distribution)
    wanted = [target.upper() for target in options.targets] or ["CURRENT"]
    config.num_compute_capabilities = len(wanted)  # type: ignore[attr-defined,unused-ignore]
    for number, name in enumerate(wanted):
        config.set_compute_capability(known[name], number)  # type: ignore[attr-defined,unused-ignore]


def check_targets(targets: tuple[str, ...], distribution: Distribution) -> None:
    """Refuse targets that TensorRT-RTX does not build for.

    Raises:
        SpecError: one of them is none of its compute capabilities.
    """
    known = [name.lower() for name in distribution.api.ComputeCapability.__members__]
    allowed = [name for name in known if name.startswith("sm")]
    for target in targets:
        if target not in allowed:
            raise SpecError(f"--target {target}: TensorRT-RTX builds for {', '.join(allowed)}")


def _set_compatibility(
    config: "trt.IBuilderConfig", distribution: Distribution, options: BuildOptions
) -> None:
    api = distribution.api
    if options.targets:
        raise SpecError(
            "TensorRT builds for the GPU that it runs on; for --target install TensorRT-RTX: "
            + with_our_pip(pip_install(EXTRAS["tensorrt_rtx"]))
        )
    if options.hardware_compatible:
        config.hardware_compatibility_level = api.HardwareCompatibilityLevel.AMPERE_PLUS
    if options.version_compatible:
        config.set_flag(api.BuilderFlag.VERSION_COMPATIBLE)


def _read_timing_cache(config: "trt.IBuilderConfig", path: Path | None) -> None:
    if path is None:
        return
    kept = path.read_bytes() if path.is_file() else b""
    for content in (kept, b""):
        cache = config.create_timing_cache(content)
        # A cache of another GPU or version is no error: a fresh one takes its place.
        if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
            return


def _write_timing_cache(config: "trt.IBuilderConfig", path: Path | None) -> None:
    cache = config.get_timing_cache() if path is not None else None
    if path is not None and cache is not None:
        with whole_file(path) as temporary:
            temporary.write_bytes(bytes(cache.serialize()))


def _monitor(distribution: Distribution, progress: Progress) -> "trt.IProgressMonitor":
    api = distribution.api
    steps: dict[str, int] = {}

    class Monitor(api.IProgressMonitor):  # type: ignore[misc,name-defined]  # a class of a module found late
        def phase_start(
            self,
            phase_name: str,
            parent_phase: str,  # noqa: ARG002 - TensorRT passes it
            num_steps: int,
        ) -> None:
            steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            progress(f"building: {phase_name}", step + 1, steps.get(phase_name, 0))
            return True  # go on

        def phase_finish(self, phase_name: str) -> None:
            steps.pop(phase_name, None)

    monitor: trt.IProgressMonitor = Monitor()
    return monitor
