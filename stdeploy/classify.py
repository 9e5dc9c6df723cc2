"""The Classifier: the one place that knows the whole way from a video file to a prediction."""

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from stdeploy.card import ModelCard, read_card
from stdeploy.errors import VideoError
from stdeploy.files import sha256_of
from stdeploy.prediction import Prediction, rank
from stdeploy.runtime.base import DEFAULT_OPTIONS, Runtime, RuntimeOptions
from stdeploy.runtime.opening import open_runtime
from stdeploy.video.views import read_views


class Classifier:
    """An opened artifact that classifies video files; a context manager.

    Args:
        runtime: runs the network.
        card: of the artifact.
        artifact_sha256: its digest.
        views: clips per video; None takes the card's.
        crops: of each of those, 1 (the centre) or 3 (along the longer side).
        max_batch: clips that the network gets at once.
    """

    def __init__(
        self,
        runtime: Runtime,
        card: ModelCard,
        *,
        artifact_sha256: str,
        views: int | None = None,
        crops: int = 1,
        max_batch: int = 1,
    ) -> None:
        self.runtime = runtime
        self.card = card
        self.views = card.clip.views if views is None else views
        self.crops = crops
        self._artifact_sha256 = artifact_sha256
        self._max_batch = max_batch

    @classmethod
    def open(
        cls,
        artifact: Path,
        *,
        views: int | None = None,
        crops: int = 1,
        max_batch: int = 1,
        options: RuntimeOptions = DEFAULT_OPTIONS,
    ) -> Self:
        """Open an artifact and verify it with its golden clip.

        Args:
            artifact: a .onnx, .engine, .fused.safetensors or .pt file.
            views: clips per video; None takes the card's.
            crops: of each of those, 1 (the centre) or 3 (along the longer side).
            max_batch: clips that the network gets at once.
            options: backend, device and precision.

        Raises:
            ArtifactError: it cannot be used.
            BackendError: what runs it is not installed.
        """
        card = read_card(artifact)
        return cls(
            open_runtime(artifact, card, options),
            card,
            artifact_sha256=sha256_of(artifact),
            views=views,
            crops=crops,
            max_batch=max_batch,
        )

    def classify(self, video: Path) -> Prediction:
        """Classify one video file.

        Raises:
            VideoError: it gives no clip; the message says why, without the path.
        """
        start = time.perf_counter()
        decoded_views = read_views(video, self.card.clip, self.views, crops=self.crops)
        frames = decoded_views.frames
        decoded = time.perf_counter()
        view_logits = np.concatenate(
            [
                self.runtime.run(frames[first : first + self._max_batch])
                for first in range(0, len(frames), self._max_batch)
            ]
        )
        inferred = time.perf_counter()
        labels, scores = rank(view_logits, self.card.labels)
        shown = decoded_views.times_seconds
        return Prediction(
            video=str(video),
            labels=labels,
            scores=scores,
            view_logits=view_logits,
            view_spans_seconds=tuple((float(t.min()), float(t.max())) for t in shown),
            timings_ms={"decode": 1e3 * (decoded - start), "infer": 1e3 * (inferred - decoded)},
            device=f"{self.runtime.name} on {self.runtime.device}",
            artifact_sha256=self._artifact_sha256,
        )

    def classify_all(
        self, videos: Iterable[Path]
    ) -> Iterator[tuple[Path, Prediction | VideoError]]:
        """Classify videos one after the other; a broken one gives its error and the rest go on."""
        for video in videos:
            try:
                yield video, self.classify(video)
            except VideoError as error:
                yield video, error

    def close(self) -> None:
        """Close the runtime."""
        self.runtime.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
