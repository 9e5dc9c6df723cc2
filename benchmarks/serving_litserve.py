"""The same model behind LitServe, as one would write it: python serving_litserve.py ARTIFACT PORT.

The same reading of videos and the same runtime; what differs is who waits for whom.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import litserve
import numpy as np
from fastapi import Request

from stdeploy.artifacts.card import read_card
from stdeploy.backends.loader import open_runtime
from stdeploy.inference.prediction import rank
from stdeploy.video.clips import read_views


class Api(litserve.LitAPI):
    """Decodes and classifies in one process."""

    def setup(self, device: str) -> None:
        """Open the artifact."""
        del device
        artifact = Path(sys.argv[1])
        self.card = read_card(artifact)
        self.runtime = open_runtime(artifact, self.card)

    def decode_request(self, request: Request) -> np.ndarray:
        """Clips of an uploaded video."""
        with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
            file.write(request["file"].file.read())  # type: ignore[index]
            file.flush()
            return read_views(Path(file.name), self.card.clip, self.card.clip.views).frames

    def predict(self, x: np.ndarray) -> Any:
        """Logits of all views."""
        return np.concatenate([self.runtime.run(x[n : n + 1]) for n in range(len(x))])

    def encode_response(self, output: np.ndarray) -> dict[str, Any]:
        """Labels and scores."""
        labels, scores = rank(output, self.card.labels)
        return {"predictions": list(zip(labels[:5], scores[:5], strict=True))}


if __name__ == "__main__":
    server = litserve.LitServer(Api(), accelerator="cpu", timeout=120)
    server.run(port=int(sys.argv[2]), generate_client_file=False)
