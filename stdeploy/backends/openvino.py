"""OpenVINO on the CPU: float32, bf16 where the processor has it, and int8."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from stdeploy.artifacts.card import ModelCard
from stdeploy.artifacts.frames import Frames
from stdeploy.artifacts.spec import Precision, StreamSpec
from stdeploy.backends.base import (
    BaseRuntime,
    Features,
    Finding,
    RunsClips,
    RuntimeOptions,
    StreamOptions,
)
from stdeploy.backends.signature import Described, as_input, check_signature
from stdeploy.backends.streams import StreamAnswer, StreamSession, written_stream
from stdeploy.errors import ArtifactError, BackendError
from stdeploy.hardware import cpu_multiplies
from stdeploy.optional_packages import require

# Arithmetic asked for -> OpenVINO's hint. Without one it would choose bf16 by itself wherever
# the processor has it. int8 comes from the Q/DQ nodes, what lies between them is float32.
_HINTS: dict[Precision, str] = {"fp32": "f32", "int8": "f32", "bf16": "bf16"}
# Of inputs and outputs, as NumPy writes them.
_TYPES = {"u8": "uint8", "i32": "int32", "f32": "float32", "f16": "float16"}


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
        compiled, precision = cls._compiled(artifact, card, options)
        return cls(compiled, card, precision)

    @classmethod
    def open_streams(
        cls,
        artifact: Path,
        card: ModelCard,
        options: RuntimeOptions,
        asked: StreamOptions,
    ) -> "_OpenVinoStreams":
        """Load a file for streams; see `BaseRuntime.open_streams`."""
        spec = written_stream(card, asked)
        compiled, precision = cls._compiled(artifact, card, options)
        return _OpenVinoStreams(compiled, precision, spec)

    @classmethod
    def _compiled(
        cls, artifact: Path, card: ModelCard, options: RuntimeOptions
    ) -> tuple[Any, Precision]:
        """A network of OpenVINO, and the arithmetic that it really uses."""
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
        return compiled, precision

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


class _OpenVinoStreams(StreamSession):
    """A compiled network that takes what layers have kept, and gives it anew."""

    name = "openvino"
    device = "CPU"

    def __init__(self, compiled: Any, precision: Precision, spec: StreamSpec) -> None:
        super().__init__(spec)
        self._request = compiled.create_infer_request()
        self.precision = precision

    def run(
        self,
        frames: NDArray[np.uint8],
        position: NDArray[np.int32],
        length: NDArray[np.int32],
        states: list[Any],
    ) -> tuple[StreamAnswer, list[Any]]:
        """Take the next frames; see `StreamSession.run`."""
        try:
            self._request.infer([frames, position, length, *states], share_inputs=True)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[-200:]
            raise ArtifactError(f"OpenVINO cannot run {len(position)} streams: {reason}") from error
        # Copies, because the next call writes over its outputs.
        logits, places, *kept = (
            np.array(self._request.get_output_tensor(number).data)
            for number in range(2 + len(states))
        )
        return StreamAnswer(logits, places), kept

    def close(self) -> None:
        """Release the compiled network."""
        self._request = None


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
