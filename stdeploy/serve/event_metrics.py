"""Metrics of events and their sinks, for Prometheus."""

from collections.abc import Callable, Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from stdeploy.events.pipeline import EventCounts


class EventMetrics(Collector):
    """What became of events, when Prometheus asks.

    Args:
        counts: how many there are now.
    """

    def __init__(self, counts: Callable[[], EventCounts]) -> None:
        self._counts = counts

    def describe(self) -> Iterable[Metric]:
        """Nothing yet, when this is registered."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """See prometheus_client."""
        counts = self._counts()
        yield from _of_rules(counts)
        lost = CounterMetricFamily("stdeploy_events_lost", "That no sink got: the disk was full.")
        lost.add_metric((), counts.lost)
        yield lost
        for name, about, value in _OF_SINKS:
            family = GaugeMetricFamily if name.startswith("queue") else CounterMetricFamily
            metric = family(f"stdeploy_event_{name}", about, labels=("sink",))
            for sink, of_sink in counts.sinks.items():
                metric.add_metric((sink,), getattr(of_sink, value))
            yield metric


# Name, help, and the field of SinkCounts.
_OF_SINKS = (
    ("queue_messages", "Messages that wait.", "queued"),
    ("queue_bytes", "How large they are.", "queued_bytes"),
    ("messages_delivered", "That the receiver has.", "delivered"),
    ("messages_retried", "Attempts that were made again.", "retried"),
    ("messages_dropped", "For which there was no room.", "dropped"),
    ("messages_dead", "That were refused and given up.", "dead"),
)


def _of_rules(counts: EventCounts) -> Iterable[Metric]:
    labels = ("rule", "source")
    started = CounterMetricFamily("stdeploy_events", "Events that started.", labels=labels)
    running = GaugeMetricFamily("stdeploy_events_running", "Not yet ended.", labels=labels)
    for of, count in counts.started.items():
        started.add_metric(of, count)
        running.add_metric(of, count - counts.ended.get(of, 0))
    return (started, running)
