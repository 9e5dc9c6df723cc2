"""Which layers int8 spoils: found one at a time, kept in fp32, and named."""

from collections.abc import Callable

import numpy as np
import onnx
from numpy.typing import NDArray

from stdeploy.artifacts.card import ParityRow
from stdeploy.artifacts.parity import difference
from stdeploy.errors import ParityError
from stdeploy.export.quantise import Quantiser

# Enough to tell a layer that spoils from one that does not; each costs a run for every layer.
_PROBE_CLIPS = 2
# Where half of the layers do not help, int8 is not worth having.
_MOST_KEPT = 0.5


class Int8Search:
    """Quantises a graph, with as few layers left in fp32 as its gate asks for.

    Args:
        graph: in fp32.
        frames: uint8 (N, T, H, W, 3), the clips that set the ranges, which the gate must not be
            left to alone.
        answer: runs a graph on clips.
    """

    def __init__(
        self,
        graph: onnx.ModelProto,
        frames: NDArray[np.uint8],
        answer: Callable[[onnx.ModelProto, NDArray[np.uint8]], NDArray[np.float32]],
    ) -> None:
        self._answer = answer
        self._quantiser = Quantiser(graph, frames)
        # Spread over the clips, which come in the order of the folder.
        chosen = np.linspace(0, len(frames) - 1, num=min(_PROBE_CLIPS, len(frames)), dtype=int)
        self._probes = frames[np.unique(chosen)]

    def run(
        self,
        failures: Callable[[onnx.ModelProto, int], list[ParityRow]],
        progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> tuple[onnx.ModelProto, tuple[str, ...]]:
        """Quantise all layers; if that fails, all but the worst 1, 2, 4, 8, ...

        Args:
            failures: the gate, which gives what a graph did not pass that keeps so many layers in
                fp32.
            progress: is told layers tried and in all, if they have to be.

        Returns:
            The graph, and the layers that were kept in fp32, the worst first.

        Raises:
            ParityError: half of the layers in fp32 do not help.
        """
        layers = list(self._quantiser.layers)
        graph = self._quantiser.quantise(layers)
        failed = failures(graph, 0)
        if not failed:
            return graph, ()
        ranking = self.ranking(progress)
        kept = 1
        while kept <= len(layers) * _MOST_KEPT:
            worst = tuple(name for name, _ in ranking[:kept])
            graph = self._quantiser.quantise([name for name in layers if name not in worst])
            failed = failures(graph, kept)
            if not failed:
                return graph, worst
            kept *= 2
        named = ", ".join(f"{name} ({error:.1e})" for name, error in ranking[:3])
        raise ParityError(
            f"int8 fails its gate even with {kept // 2} of {len(layers)} layers in fp32: "
            f"{failed[0].check} {failed[0].error:.1e}, allowed {failed[0].tolerance:.1e} "
            f"({failed[0].detail}); the largest errors of single layers: {named}; nothing was "
            "written. Use more clips that are like those to be classified, --precision fp16, or "
            "other thresholds with --allow"
        )

    def ranking(
        self, progress: Callable[[int, int], None] = lambda _done, _total: None
    ) -> list[tuple[str, float]]:
        """Layers with the mean error that each makes alone in int8, the worst first."""
        expected = self._answer(self._quantiser.quantise(()), self._probes)
        layers = list(self._quantiser.layers)
        errors = {}
        for done, name in enumerate(layers, start=1):
            logits = self._answer(self._quantiser.quantise((name,)), self._probes)
            errors[name] = difference(expected, logits).mean_error
            progress(done, len(layers))
        return sorted(errors.items(), key=lambda item: -item[1])
