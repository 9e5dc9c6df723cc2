"""Which TensorRT is here: TensorRT 10.16 to 11, or TensorRT-RTX, which has the same API."""

import dataclasses
import functools
import importlib
import importlib.util
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from stdeploy.errors import BackendError, pip_install, with_our_pip

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
