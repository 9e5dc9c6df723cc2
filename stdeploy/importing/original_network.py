"""The network as it came, in ONNX Runtime: what a file that is made of it has to repeat."""

from pathlib import Path
from typing import Any, Self

import numpy as np
import onnx
from numpy.typing import NDArray

from stdeploy.errors import ArtifactError, SpecError
from stdeploy.importing.clip_description import ClipDescription, inputs_of
from stdeploy.importing.graph_output import time_axis
from stdeploy.importing.onnx_graph import ImportedGraph
from stdeploy.optional_packages import require

_FATAL = 4  # of ONNX Runtime's severities
_SUMS_TO_ONE = 1e-3


class OriginalNetwork:
    """Answers clips as the owner's program would, if its description is right.

    Pixels are normalised and turned by NumPy, apart from the graph that is to be compared.

    Args:
        model: as it was read.
        graph: what was made of it, for its batch and its output.
        source: its file, for errors.

    Raises:
        ArtifactError: ONNX Runtime cannot load it.
        MissingExtraError: ONNX Runtime is not installed.
    """

    def __init__(self, model: onnx.ModelProto, graph: ImportedGraph, *, source: str) -> None:
        ort = require("onnxruntime", extra="cpu", purpose="comparing an imported network")
        settings = ort.SessionOptions()
        settings.log_severity_level = _FATAL
        ort.set_default_logger_severity(_FATAL)
        settings.enable_cpu_mem_arena = False
        self._source = source
        self._batch = graph.fixed_batch
        self._inputs = graph.inputs
        self._output = graph.output
        self._shape = graph.output_shape
        try:
            self._session: Any = ort.InferenceSession(
                model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's own classes share no narrower base
            reason = str(error).splitlines()[0][:300]
            raise ArtifactError(f"{source!r} cannot be loaded by ONNX Runtime: {reason}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._session = None

    def answers(
        self, description: ClipDescription, frames: NDArray[np.uint8]
    ) -> NDArray[np.float64]:
        """What it gives for clips: logits or probabilities (N, K), averaged where it has rows.

        Args:
            description: how it takes clips.
            frames: uint8 (N, T, H, W, 3); where its batch is fixed they are given one by one.

        Raises:
            ArtifactError: it cannot run, or gives what is no number.
        """
        size = self._batch or len(frames)
        parts = []
        for start in range(0, len(frames), size):
            clips = frames[start : start + size]
            filled = np.concatenate([clips, clips[:1].repeat(size - len(clips), axis=0)])
            parts.append(self._run(description, filled)[: len(clips)])
        return np.concatenate(parts)

    def _run(self, description: ClipDescription, frames: NDArray[np.uint8]) -> NDArray[np.float64]:
        # Another description than the one of the graph may give its inputs in another order.
        names = [name for name, _ in description.paths if name is not None] or self._inputs
        feed = dict(zip(names, inputs_of(description, frames), strict=True))
        try:
            (found,) = self._session.run([self._output], feed)
        except Exception as error:  # as above
            reason = str(error).splitlines()[0][:300]
            raise ArtifactError(
                f"{self._source!r} cannot run a batch of {len(frames)}: {reason}"
            ) from error
        answers = np.asarray(found, dtype=np.float64)
        if not np.isfinite(answers).all():
            raise ArtifactError(
                f"{self._source!r} answers a clip with numbers that are not finite; its weights "
                "are damaged, or the description has another range than it was trained on"
            )
        axis = time_axis(self._shape, description, source=self._source)
        answers = answers if axis is None else answers.mean(axis=axis)
        return answers.reshape(len(frames), -1)


def check_kind(answers: NDArray[np.float64], description: ClipDescription, source: Path) -> None:
    """Compare what a network gives with what its description says that it gives.

    Args:
        answers: (N, K), N at least 2, of clips that differ.
        description: says logits or probabilities.
        source: its file, for errors.

    Raises:
        SpecError: logits are none, or probabilities are none.
    """
    sums = np.abs(answers.sum(axis=1) - 1).max()
    are_probabilities = bool((answers >= 0).all() and sums <= _SUMS_TO_ONE)
    gives = description.said.output.gives
    if gives == "probabilities" and not are_probabilities:
        raise SpecError(
            f"{str(source)!r} gives numbers from {answers.min():.3g} to {answers.max():.3g} that "
            'do not add up to 1, so they are no probabilities; write gives = "logits"'
        )
    if gives == "logits" and are_probabilities and answers.shape[1] > 1:
        raise SpecError(
            f"{str(source)!r} gives numbers that add up to 1 for every clip, so they are "
            'probabilities; write gives = "probabilities"'
        )
