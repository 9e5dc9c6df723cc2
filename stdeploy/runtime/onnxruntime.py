"""ONNX Runtime on the CPU."""

from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from stdeploy.card import ModelCard
from stdeploy.errors import ArtifactError, BackendError, require
from stdeploy.runtime.base import ClosesOnExit, check_frames

_PROVIDER = "CPUExecutionProvider"


class OnnxRuntime(ClosesOnExit):
    """An .onnx artifact in an inference session of ONNX Runtime."""

    name = "onnxruntime"

    def __init__(self, session: Any, card: ModelCard) -> None:
        self._session = session
        self._card = card
        self.device = "CPU"

    @classmethod
    def open(cls, artifact: Path, card: ModelCard) -> Self:
        """Load an artifact; see `Runtime.open`."""
        ort = require("onnxruntime", extra="cpu", purpose=f"running {artifact.name!r}")
        options = ort.SessionOptions()
        options.log_severity_level = 3
        # Clips are large: an arena that grows by doubling holds gigabytes that nothing uses.
        options.enable_cpu_mem_arena = False
        try:
            session = ort.InferenceSession(str(artifact), options, providers=[_PROVIDER])
        except Exception as error:  # ONNX Runtime's own classes share no narrower base
            reason = str(error).splitlines()[0]
            raise ArtifactError(
                f"{str(artifact)!r} cannot be loaded by ONNX Runtime: {reason}"
            ) from error
        providers = session.get_providers()
        if providers != [_PROVIDER]:
            raise BackendError(f"ONNX Runtime runs on {providers}, but {_PROVIDER} was asked for")
        runtime = cls(session, card)
        runtime._check_signature(artifact)
        return runtime

    def run(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Classify clips; see `Runtime.run`."""
        check_frames(frames, self._card)
        try:
            (logits,) = self._session.run(["logits"], {"frames": frames})
        except Exception as error:  # as above
            reason = str(error).splitlines()[0]
            raise ArtifactError(
                f"ONNX Runtime cannot run a batch of {len(frames)} clips: {reason}"
            ) from error
        return np.asarray(logits, dtype=np.float32)

    def close(self) -> None:
        """Release the session."""
        self._session = None

    def _check_signature(self, artifact: Path) -> None:
        inputs = [(i.name, i.type, list(i.shape)) for i in self._session.get_inputs()]
        outputs = [(o.name, o.type) for o in self._session.get_outputs()]
        tail = list(self._card.clip.frames_shape)
        if (
            len(inputs) != 1
            or inputs[0][:2] != ("frames", "tensor(uint8)")
            or inputs[0][2][1:] != tail
            or outputs != [("logits", "tensor(float)")]
        ):
            raise ArtifactError(
                f"{str(artifact)!r} takes {inputs} and gives {outputs}; its card announces "
                f"uint8 'frames' (N, {', '.join(map(str, tail))}) and float 'logits'"
            )
        if isinstance(inputs[0][2][0], int):
            raise ArtifactError(
                f"{str(artifact)!r} is frozen at batch {inputs[0][2][0]}; export it again"
            )
