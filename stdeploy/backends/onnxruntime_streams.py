"""Streams in ONNX Runtime; on an NVIDIA GPU states stay there from call to call."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stdeploy.artifacts.card import ModelCard
from stdeploy.artifacts.spec import StreamSpec
from stdeploy.backends.base import DeviceType
from stdeploy.backends.streams import StreamAnswer, StreamSession
from stdeploy.errors import ArtifactError


class OnnxRuntimeStreams(StreamSession):
    """A session that takes what layers have kept, and gives it anew.

    On a GPU states are device tensors of ONNX Runtime, which come out of one call and go into the
    next; to put other streams together they pass through the host.

    Args:
        ort: the package.
        session: an inference session of a file whose signature has been checked.
        card: of the file.
        spec: likewise.
        device: where it runs, in words.
        on_gpu: whether that is a GPU.
    """

    name = "onnxruntime"

    def __init__(
        self,
        ort: Any,
        session: Any,
        card: ModelCard,
        spec: StreamSpec,
        *,
        device: str,
        on_gpu: bool,
    ) -> None:
        super().__init__(spec)
        self._ort = ort
        self._session = session
        self._on_gpu = on_gpu
        self._inputs = [tensor.name for tensor in session.get_inputs()]
        self._outputs = [tensor.name for tensor in session.get_outputs()]
        self.device = device
        self.device_type: DeviceType = "cuda" if on_gpu else "cpu"
        self.precision = card.precision

    def run(
        self,
        frames: NDArray[np.uint8],
        position: NDArray[np.int32],
        length: NDArray[np.int32],
        states: list[Any],
    ) -> tuple[StreamAnswer, list[Any]]:
        """Take the next frames; see `StreamSession.run`."""
        try:
            values = [frames, position, length, *states]
            run = self._run_on_gpu if self._on_gpu else self._run_on_cpu
            logits, places, *kept = run(values)
        except Exception as error:  # ONNX Runtime's own classes share no narrower base
            reason = str(error).splitlines()[0]
            raise ArtifactError(
                f"ONNX Runtime cannot run {len(position)} streams: {reason}"
            ) from error
        return StreamAnswer(logits, places), kept

    def start(self) -> list[Any]:
        """The states of one stream before its first frame."""
        return self._on_device(super().start())

    def join(self, streams: Any) -> list[Any]:
        """The states of streams as one batch."""
        return self._on_device(super().join([self._on_host(states) for states in streams]))

    def split(self, states: list[Any]) -> list[list[Any]]:
        """The states of a batch, stream by stream."""
        rows = super().split(self._on_host(states))
        return [self._on_device(row) for row in rows]

    def close(self) -> None:
        """Release the session."""
        self._session = None

    def _run_on_cpu(self, values: list[Any]) -> list[Any]:
        found: list[Any] = self._session.run(
            self._outputs, dict(zip(self._inputs, values, strict=True))
        )
        return found

    def _run_on_gpu(self, values: list[Any]) -> list[Any]:
        binding = self._session.io_binding()
        for name, value in zip(self._inputs, values, strict=True):
            if isinstance(value, np.ndarray):
                binding.bind_cpu_input(name, value)
            else:
                binding.bind_ortvalue_input(name, value)
        for name in self._outputs:
            binding.bind_output(name, "cuda" if name.startswith("next.") else "cpu")
        self._session.run_with_iobinding(binding)
        logits, places, *states = binding.get_outputs()
        return [logits.numpy(), places.numpy(), *states]

    def _on_device(self, states: list[Any]) -> list[Any]:
        if not self._on_gpu:
            return states
        return [self._ort.OrtValue.ortvalue_from_numpy(each, "cuda", 0) for each in states]

    def _on_host(self, states: list[Any]) -> list[Any]:
        return [each.numpy() for each in states] if self._on_gpu else states
