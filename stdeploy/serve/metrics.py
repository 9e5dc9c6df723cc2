"""What Prometheus sees of the server: seconds, bytes and counts, under `stdeploy_`."""

from collections.abc import Callable

import prometheus_client as prometheus
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from stdeploy.backends.base import RunsClips

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_BYTES = tuple(2.0**power for power in range(12, 34, 2))
_CLIPS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Counters of one server; each has a registry of its own.

    Attributes:
        requests: answers by route and status.
        rejections: refused requests by the code of `errors.py`.
        upload, queue, decode, inference, total: how long each stage of a request took.
        upload_bytes: size of the bodies.
        batch: clips in a batch.
        decoders_lost: decoding processes that died.
    """

    def __init__(self) -> None:
        # When a counter was made is when the process was, which `process_start_time_seconds` says.
        prometheus.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = prometheus.CollectorRegistry()
        self.requests = prometheus.Counter(
            "stdeploy_requests", "Answers.", ("route", "status"), registry=self.registry
        )
        self.rejections = prometheus.Counter(
            "stdeploy_rejections", "Requests refused.", ("reason",), registry=self.registry
        )
        self.upload = self._seconds("upload", "To receive a video.")
        self.queue = self._seconds("queue", "Of a request in queues.")
        self.decode = self._seconds("decode", "To decode the clips of a video.")
        self.inference = self._seconds("inference", "Of a batch in the network.")
        self.total = self._seconds("request", "From the head of a request to its answer.")
        self.upload_bytes = prometheus.Histogram(
            "stdeploy_upload_bytes", "Size of a body.", buckets=_BYTES, registry=self.registry
        )
        self.batch = prometheus.Histogram(
            "stdeploy_batch_clips", "Clips in a batch.", buckets=_CLIPS, registry=self.registry
        )
        self.decoders_lost = prometheus.Counter(
            "stdeploy_decode_processes_lost",
            "Decoding processes that died.",
            registry=self.registry,
        )
        self.in_progress = self._gauge("requests_in_progress", "Requests in the server.")
        self.ready = self._gauge("ready", "1 where requests are taken.")
        self.live = self._gauge("live", "0 where only a new process can answer.")
        prometheus.ProcessCollector(registry=self.registry)

    def ran(self, clips: int, seconds: float) -> None:
        """A batch has been through the network."""
        self.batch.observe(clips)
        self.inference.observe(seconds)

    def opened(
        self,
        name: str,
        sha256: str,
        runtime: RunsClips,
        *,
        videos_waiting: Callable[[], int],
        clips_waiting: Callable[[], int],
    ) -> None:
        """The network is there; its device and its queues are shown from now on.

        Args:
            name: of the model.
            sha256: of its file.
            runtime: runs it.
            videos_waiting: how many wait to be decoded.
            clips_waiting: how many wait for the network.
        """
        info = prometheus.Gauge(
            "stdeploy_model_info",
            "What answers, and where it really runs.",
            ("model", "sha256", "backend", "device", "precision"),
            registry=self.registry,
        )
        info.labels(
            name,
            sha256,
            runtime.name,
            runtime.device,
            runtime.precision,
        ).set(1)
        self._gauge("queue_videos", "Videos that wait to be decoded.").set_function(videos_waiting)
        self._gauge("queue_clips", "Clips that wait for the network.").set_function(clips_waiting)

    def text(self) -> tuple[bytes, str]:
        """All of it in Prometheus' format, and its content type."""
        return prometheus.generate_latest(self.registry), CONTENT_TYPE_LATEST

    def _seconds(self, stage: str, about: str) -> prometheus.Histogram:
        return prometheus.Histogram(
            f"stdeploy_{stage}_seconds", about, buckets=_SECONDS, registry=self.registry
        )

    def _gauge(self, name: str, about: str) -> prometheus.Gauge:
        return prometheus.Gauge(f"stdeploy_{name}", about, registry=self.registry)
