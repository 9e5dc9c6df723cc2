"""Metrics of many live sources, for Prometheus."""

from collections.abc import Callable, Iterable, Sequence
from typing import get_args

import prometheus_client as prometheus
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from stdeploy.backends.base import RunsClips
from stdeploy.inference.live_sources import SourceState, SourceStatus

_SOURCES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class LiveMetrics:
    """Counters of one run of `stdeploy watch`; see `CountsRequests` too.

    Args:
        statuses: how the sources do now.

    Attributes:
        requests: answers by route and status.
        rejections: refused requests by the code of `errors.py`.
    """

    def __init__(self, statuses: Callable[[], Sequence[SourceStatus]]) -> None:
        # When a counter was made is when the process was, which `process_start_time_seconds` says.
        prometheus.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = prometheus.CollectorRegistry()
        self.requests = prometheus.Counter(
            "stdeploy_requests", "Answers.", ("route", "status"), registry=self.registry
        )
        self.rejections = prometheus.Counter(
            "stdeploy_rejections", "Requests refused.", ("reason",), registry=self.registry
        )
        self._batch = prometheus.Histogram(
            "stdeploy_live_batch_sources",
            "Sources in a batch.",
            buckets=_SOURCES,
            registry=self.registry,
        )
        self._inference = prometheus.Histogram(
            "stdeploy_inference_seconds",
            "Of a batch in the network.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._info = prometheus.Gauge(
            "stdeploy_model_info",
            "What answers, and where it really runs.",
            ("model", "backend", "device", "precision"),
            registry=self.registry,
        )
        self.registry.register(_Sources(statuses))
        prometheus.ProcessCollector(registry=self.registry)

    def ran(self, sources: int, seconds: float) -> None:
        """A batch has been through the network."""
        self._batch.observe(sources)
        self._inference.observe(seconds)

    def opened(self, name: str, runtime: RunsClips) -> None:
        """The network is there."""
        self._info.labels(name, runtime.name, runtime.device, runtime.precision).set(1)

    def text(self) -> tuple[bytes, str]:
        """All of it in Prometheus' format, and its content type."""
        return prometheus.generate_latest(self.registry), CONTENT_TYPE_LATEST


class _Sources(Collector):
    """What is known of the sources when Prometheus asks."""

    def __init__(self, statuses: Callable[[], Sequence[SourceStatus]]) -> None:
        self._statuses = statuses

    def describe(self) -> Iterable[Metric]:
        """Nothing yet, when this is registered: the sources come later."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """See prometheus_client."""
        state = GaugeMetricFamily(
            "stdeploy_live_state", "1 for the state of a source.", labels=("source", "state")
        )
        lag = _gauge("lag_seconds", "From the arrival of the last frame to its answer.")
        age = _gauge("frame_age_seconds", "Since the newest frame came.")
        frames = _counter("frames", "Frames that were due, and came.")
        dropped = _counter("dropped_frames", "Of these, that the network never saw.")
        answers = _counter("answers", "Answers.")
        reconnects = _counter("reconnects", "How often a source was opened again.")
        for status in self._statuses():
            name = [status.source]
            for each in get_args(SourceState):
                state.add_metric([status.source, each], float(each == status.state))
            if status.lag_seconds is not None:
                lag.add_metric(name, status.lag_seconds)
            if status.age_seconds is not None:
                age.add_metric(name, status.age_seconds)
            frames.add_metric(name, status.frames)
            dropped.add_metric(name, status.dropped)
            answers.add_metric(name, status.answers)
            reconnects.add_metric(name, status.reconnects)
        return (state, lag, age, frames, dropped, answers, reconnects)


def _gauge(name: str, about: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"stdeploy_live_{name}", about, labels=("source",))


def _counter(name: str, about: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"stdeploy_live_{name}", about, labels=("source",))
