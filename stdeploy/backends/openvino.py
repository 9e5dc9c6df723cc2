"""OpenVINO on the CPU: float32, bf16 where the processor has it, and int8."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from stdeploy.artifacts.card import ModelCard
from stdeploy.artifacts.frames import Frames
from stdeploy.artifacts.spec import Precision
from stdeploy.backends.base import (
    BaseRuntime,
    Described,
    Features,
    Finding,
    RunsClips,
    RuntimeOptions,
    as_input,
    check_signature,
)
from stdeploy.errors import ArtifactError, BackendError
from stdeploy.hardware import cpu_multiplies
from stdeploy.optional_packages import require

# Arithmetic asked for -> OpenVINO's hint. Without one it would choose bf16 by itself wherever
# the processor has it. int8 comes from the Q/DQ nodes, what lies between them is float32.
_HINTS: dict[Precision, str] = {"fp32": "f32", "int8": "f32", "bf16": "bf16"}
# Of inputs and outputs, as NumPy writes them.
_TYPES = {"u8": "uint8", "f32": "float32"}


class OpenVinoRuntime(BaseRuntime):
    """An .onnx artifact compiled by OpenVINO for this CPU."""

    name = "openvino"
    library = "openvino"
    extra = "openvino"
    precisions = ("fp32", "bf16", "int8")
    automatic = True

    def __init__(self, compiled: Any, card: ModelCard, precision: Precision) -> None:
        self._request = compiled.create_infer_request()
        self._card = card
        self.precision = precision
        self.device = "CPU"

    @classmethod
    def open(cls, artifact: Path, card: ModelCard, options: RuntimeOptions) -> Self:
        """Load an artifact; see `BaseRuntime.open`."""
        openvino = require("openvino", extra="openvino", purpose="the openvino backend")
        core = openvino.Core()
        precision = _precision(core, artifact, card, options)
        config = {
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "PERFORMANCE_HINT": "LATENCY",
        }
        if options.threads is not None:
            config["INFERENCE_NUM_THREADS"] = str(options.threads)
        try:
            model = core.read_model(artifact)
            check_signature(
                artifact,
                card,
                [_described(port) for port in model.inputs],
                [_described(port) for port in model.outputs],
            )
            compiled = core.compile_model(model, "CPU", config)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[-200:]
            raise ArtifactError(
                f"{str(artifact)!r} cannot be loaded by OpenVINO: {reason}"
            ) from error
        used = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        devices = compiled.get_property("EXECUTION_DEVICES")
        if used != _HINTS[precision] or devices != ["CPU"]:
            raise BackendError(
                f"OpenVINO runs {artifact.name!r} in {used} on {devices}, but {precision} on the "
                "CPU was asked for"
            )
        return cls(compiled, card, precision)

    def run(self, frames: Frames) -> NDArray[np.float32]:
        """Classify clips; see `RunsClips.run`."""
        clips = as_input(frames, self._card)
        try:
            self._request.infer([clips], share_inputs=True)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[-200:]
            raise ArtifactError(
                f"OpenVINO cannot run a batch of {len(frames)} clips: {reason}"
            ) from error
        return np.array(self._request.get_output_tensor().data, dtype=np.float32)

    def close(self) -> None:
        """Release the compiled network."""
        self._request = None

    @classmethod
    def ways(cls, card: ModelCard) -> Iterator[RuntimeOptions]:
        """As the file was written, and in bf16 where the processor has it."""
        if not cls.installed():
            return
        if card.precision in ("fp32", "int8"):
            yield RuntimeOptions(backend="openvino", device="cpu")
        if card.precision in ("fp32", "bf16") and cpu_multiplies("bf16"):
            yield RuntimeOptions(backend="openvino", device="cpu", precision="bf16")

    @classmethod
    def open_trunk(cls, model: bytes, like: RunsClips) -> Features:
        """Load a graph that ends in features; see `BaseRuntime.open_trunk`."""
        openvino = require("openvino", extra="openvino", purpose="the openvino backend")
        compiled = openvino.compile_model(
            openvino.Core().read_model(model),
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": _HINTS[like.precision],
                "PERFORMANCE_HINT": "LATENCY",
            },
        )
        request = compiled.create_infer_request()

        def features(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
            request.infer([np.ascontiguousarray(frames)], share_inputs=True)
            return np.array(request.get_output_tensor().data, dtype=np.float32)

        return features

    @classmethod
    def examine(cls) -> Iterator[Finding]:
        """Which precisions it has on this processor."""
        if not cls.installed():
            yield cls.absent()
            return
        openvino = require("openvino", extra="openvino", purpose="the openvino backend")
        capabilities = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        kinds = ["fp32", *(["bf16"] if "BF16" in capabilities else []), "int8"]
        text = f"{openvino.__version__.partition('-')[0]}; {', '.join(kinds)}"
        yield Finding("openvino, cpu", "works", text)


def _precision(core: Any, artifact: Path, card: ModelCard, options: RuntimeOptions) -> Precision:
    """The arithmetic to use, or the reason why it cannot be had."""
    precision = options.precision or card.precision
    # bf16 is a switch of this backend, so float32 files run in it too; int8 has to be in the file.
    if precision != card.precision and (precision, card.precision) != ("bf16", "fp32"):
        raise BackendError(
            f"openvino runs {artifact.name!r} in {card.precision}, as it was written; run: "
            f"stdeploy export --precision {precision}"
        )
    if precision not in _HINTS:
        raise BackendError(
            f"openvino has no {precision} on a CPU; choose another backend or one of "
            f"{', '.join(_HINTS)}"
        )
    capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if precision == "bf16" and "BF16" not in capabilities and not options.emulate:
        raise BackendError(
            "this processor has no bf16 instructions (AVX512-BF16 or AMX) and would emulate them "
            "slowly; use the fp32 or int8 file"
        )
    return precision


def _described(port: Any) -> Described:
    shape = tuple(
        dimension.get_length() if dimension.is_static else None
        for dimension in port.get_partial_shape()
    )
    dtype = port.get_element_type().get_type_name()
    return port.get_any_name(), _TYPES.get(dtype, dtype), shape
