"""From an artifact to a service that answers."""

import time
from pathlib import Path

from stdeploy.artifacts.card import ModelCard, read_card
from stdeploy.artifacts.files import sha256_of
from stdeploy.artifacts.golden import golden_clip
from stdeploy.backends.base import Runtime
from stdeploy.backends.loader import open_runtime
from stdeploy.serve.admission import DurationEstimator
from stdeploy.serve.batch_runner import BatchRunner
from stdeploy.serve.metrics import Metrics
from stdeploy.serve.service import Model, Service
from stdeploy.serve.settings import ServeSettings

_GPU_BATCH = 8


def model_of(artifact: Path) -> Model:
    """What an artifact is, before it is opened.

    Raises:
        ArtifactError: it is none.
    """
    card = read_card(artifact)
    return Model(name=artifact.stem, sha256=sha256_of(artifact), card=card)


def open_service(
    settings: ServeSettings, artifact: Path, model: Model, metrics: Metrics
) -> Service:
    """Open an artifact, let it answer its golden clip, and start what decodes.

    Args:
        settings: of the server.
        artifact: the file.
        model: see `model_of`.
        metrics: are told what happens.

    Raises:
        ArtifactError: the artifact cannot be used.
        BackendError: what runs it is not there.
        VideoError: a decoding process does not start.
    """
    runtime = open_runtime(artifact, model.card, settings.runtime_options)
    on_gpu = "cpu" not in runtime.device.lower()
    # On a CPU larger batches gain nothing, and could change the last bit of an answer.
    max_batch = settings.max_batch or (_GPU_BATCH if on_gpu else 1)
    durations = DurationEstimator(_clip_seconds(runtime, model.card), decoders=settings.workers)

    def ran(clips: int, seconds: float) -> None:
        durations.ran(clips, seconds)
        metrics.ran(clips, seconds)

    runner = BatchRunner(
        runtime,
        max_batch=max_batch,
        max_delay_seconds=settings.max_delay_ms / 1e3,
        ran=ran,
    )
    service = Service(
        model,
        runner,
        decode_workers=settings.workers,
        limits=settings.limits,
        views=settings.views,
        max_batch=max_batch,
        durations=durations,
        decoded=metrics.decode.observe,
        lost=metrics.decoders_lost.inc,
    )
    try:
        service.start()
    except BaseException:
        service.close()
        runner.close()
        raise
    metrics.opened(service)
    return service


def _clip_seconds(runtime: Runtime, card: ModelCard) -> float:
    """What a clip takes, so that the first requests are let in by a measurement as well."""
    clip = golden_clip(0, card.clip.frames_shape)[None]
    start = time.monotonic()
    runtime.run(clip)
    return time.monotonic() - start
