"""Prometheus metrics of one app: counted in passing, and what the database says asked for at most every few seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_PERIOD = 5.0  # seconds for which an answer of the database stands
_LATENCIES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)


@dataclass(frozen=True)
class Sample:
    """What is true of the service as a whole, whichever server is asked."""

    jobs: Mapping[str, int] = field(default_factory=dict)  # by state
    queue_seconds: float = 0.0  # age of the oldest waiting job
    trials: int = 0  # measured by the jobs that are still stored
    failed: int = 0  # of these
    blob_bytes: int = 0
    dispatcher: bool | None = None  # None: this server runs no jobs


class Metrics:
    """The metrics of one app, in a registry of their own: two apps in one process do not meet."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "fusetune_http_requests", "Requests answered", ["method", "route", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "fusetune_http_request_seconds", "Time from the first byte to the last", ["route"],
            buckets=_LATENCIES, registry=self._registry,
        )  # fmt: skip
        self.watchers = Gauge("fusetune_event_watchers", "Open event streams", registry=self._registry)
        self.dropped = Counter(
            "fusetune_event_watchers_dropped", "Event streams closed because the client read too slowly",
            registry=self._registry,
        )  # fmt: skip
        self._known: dict[tuple[str, str, int], Counter] = {}

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request. Its route is a template, so that the number of series is bounded."""
        key = (method if method in _METHODS else "other", route, status)
        counter = self._known.get(key)
        if counter is None:
            counter = self._known.setdefault(key, self._requests.labels(key[0], route, str(status)))
        counter.inc()
        if not route.endswith("/events"):  # streams end when the job does
            self._seconds.labels(route).observe(seconds)

    def observe(self, ask: Callable[[], Sample]) -> None:
        """Add what ``ask`` says to each scrape."""
        self._registry.register(_Service(ask))

    def text(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self._registry)


_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


class _Service(Collector):
    def __init__(self, ask: Callable[[], Sample]) -> None:
        self._ask, self._until, self._sample = ask, 0.0, Sample()

    def describe(self) -> Iterable[Metric]:
        return []  # or registering would ask the database

    def collect(self) -> Iterator[Metric]:
        if time.monotonic() >= self._until:
            self._sample = self._ask()
            self._until = time.monotonic() + _PERIOD
        sample = self._sample
        jobs = GaugeMetricFamily("fusetune_jobs", "Stored jobs by state", labels=["state"])
        for state, count in sample.jobs.items():
            jobs.add_metric([state], count)
        yield jobs
        yield GaugeMetricFamily("fusetune_queue_age_seconds", "Age of the oldest waiting job", sample.queue_seconds)
        trials = GaugeMetricFamily("fusetune_trials", "Trials of the stored jobs", labels=["result"])
        trials.add_metric(["ok"], sample.trials - sample.failed)
        trials.add_metric(["failed"], sample.failed)
        yield trials
        yield GaugeMetricFamily("fusetune_blob_bytes", "Size of the stored models and artifacts", sample.blob_bytes)
        if sample.dispatcher is not None:
            yield GaugeMetricFamily(
                "fusetune_dispatcher_up", "Whether the loop that starts jobs goes round", float(sample.dispatcher)
            )
