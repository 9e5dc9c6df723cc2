"""Streams in torch; on an NVIDIA GPU states stay there, also between replays of a CUDA graph."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stdeploy.artifacts.spec import Precision
from stdeploy.backends.base import DeviceType
from stdeploy.backends.streams import StreamAnswer, StreamSession
from stdeploy.backends.torch_execution import captured, exact, quiet
from stdeploy.errors import BackendError
from stdeploy.models.streaming import StreamingNetwork


class TorchStreams(StreamSession):
    """A streaming network of torch. With CUDA graphs each number of streams is captured once.

    Args:
        network: on its device, in its precision.
        precision: of its convolutions.
        device: in words.
        cuda_graphs: replay one CUDA graph for each number of streams.
        stored: type of the weights in the file.
    """

    name = "torch"

    def __init__(
        self,
        network: StreamingNetwork,
        precision: Precision,
        *,
        device: str,
        cuda_graphs: bool = False,
        stored: Precision = "fp32",
    ) -> None:
        super().__init__(network.spec)
        self._network: StreamingNetwork | None = network
        self._device = network.head.classifier.weight.device
        self._captured: dict[int, _CapturedCall] | None = {} if cuda_graphs else None
        self.device = device
        self.device_type: DeviceType = "cuda" if self._device.type == "cuda" else "cpu"
        self.precision = precision
        self.stored = stored

    def run(
        self,
        frames: NDArray[np.uint8],
        position: NDArray[np.int32],
        length: NDArray[np.int32],
        states: list[Any],
    ) -> tuple[StreamAnswer, list[Any]]:
        """Take the next frames; see `StreamSession.run`."""
        inputs = [torch.from_numpy(each).to(self._device) for each in (frames, position, length)]
        try:
            with torch.inference_mode(), exact(), quiet():
                logits, places, kept = self._call(inputs, states)
        except RuntimeError as error:  # no memory left, no kernel for this GPU
            reason = str(error).splitlines()[0]
            raise BackendError(
                f"torch cannot run {len(position)} streams on {self.device}: {reason}"
            ) from error
        return StreamAnswer(_on_host(logits), _on_host(places)), kept

    def start(self) -> list[Any]:
        """The states of one stream before its first frame."""
        return [
            torch.full(
                (1, *state.shape), state.fill, dtype=getattr(torch, state.type), device=self._device
            )
            for state in self.spec.states
        ]

    def join(self, streams: Sequence[list[Any]]) -> list[Any]:
        """The states of streams as one batch."""
        return [torch.cat(of_layer) for of_layer in zip(*streams, strict=True)]

    def split(self, states: list[Any]) -> list[list[Any]]:
        """The states of a batch, stream by stream."""
        return [[each[row : row + 1].clone() for each in states] for row in range(len(states[0]))]

    def close(self) -> None:
        """Release the network."""
        self._network = None
        self._captured = None if self._captured is None else {}

    def _call(
        self, inputs: list[Tensor], states: list[Tensor]
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        assert self._network is not None
        if self._captured is None:
            logits, places, kept = self._network(*inputs, states)
            return logits, places, kept
        count = len(inputs[1])
        if count not in self._captured:
            self._captured[count] = _CapturedCall(self._network, inputs, states)
        return self._captured[count].replay(inputs, states)


def _on_host(logits: Tensor) -> NDArray[Any]:
    """Logits as float32; those of a network in float64 as they are."""
    return (logits if logits.dtype == torch.float64 else logits.float()).cpu().numpy()


class _CapturedCall:
    """One call as a CUDA graph, whose states are written over where they lie."""

    def __init__(
        self, network: StreamingNetwork, inputs: list[Tensor], states: list[Tensor]
    ) -> None:
        self._inputs = [each.clone() for each in inputs]
        self._states = [each.clone() for each in states]

        def run() -> tuple[Tensor, Tensor]:
            logits, places, kept = network(*self._inputs, self._states)
            # Runs before the capture write there, too; the first replay puts in what is given.
            for state, new in zip(self._states, kept, strict=True):
                state.copy_(new)
            return logits, places

        self._captured, (self._logits, self._places) = captured(run)

    def replay(
        self, inputs: list[Tensor], states: list[Tensor]
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given)
        if states is not self._states:  # other streams than those of the last replay
            for own, given in zip(self._states, states, strict=True):
                own.copy_(given)
        self._captured.replay()
        return self._logits, self._places, self._states
