"""Prometheus metrics of the gateway, read from its parts when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from server.engines.pool import EnginePool
from server.usage import Accountant

_ENGINE_GAUGES = (
    ("running", "Sequences an engine generates now"),
    ("waiting", "Sequences that wait in an engine"),
    ("kv_usage", "Share of an engine's key-value memory in use"),
)
_ENGINE_COUNTERS = (
    ("adapter_hits", "Requests whose adapter was resident"),
    ("adapter_loads", "Adapters loaded"),
    ("adapter_evictions", "Adapters evicted"),
    ("prompt_tokens", "Prompt tokens read by an engine"),
    ("cached_tokens", "Prompt tokens an engine had in its cache"),
    ("generated_tokens", "Tokens an engine generated"),
)


class StatusCounts(Protocol):
    @property
    def statuses(self) -> dict[int, int]: ...


class GatewayCollector(Collector):
    def __init__(self, statuses: StatusCounts, pool: EnginePool, accountant: Accountant) -> None:
        self._statuses = statuses
        self._pool = pool
        self._accountant = accountant

    def collect(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "tuneyard_http_requests", "Responses by status", labels=["status"]
        )
        for status, count in sorted(self._statuses.statuses.items()):
            requests.add_metric([str(status)], count)
        yield requests
        tokens = CounterMetricFamily(
            "tuneyard_tokens", "Tokens accounted by this gateway", labels=["kind"]
        )
        for kind, count in self._accountant.served.items():
            tokens.add_metric([kind], count)
        yield tokens
        yield from self._engines()

    def _engines(self) -> Iterator[Metric]:
        connections = self._pool.connections()
        load = GaugeMetricFamily(
            "tuneyard_engine_requests",
            "Requests of this gateway under way at an engine",
            labels=["engine", "model"],
        )
        for connection in connections:
            load.add_metric([connection.engine_id, connection.model_id], connection.load)
        yield load
        for kind, fields in (
            (GaugeMetricFamily, _ENGINE_GAUGES),
            (CounterMetricFamily, _ENGINE_COUNTERS),
        ):
            for field, text in fields:
                family = kind(f"tuneyard_engine_{field}", text, labels=["engine", "model"])
                for connection in connections:
                    labels = [connection.engine_id, connection.model_id]
                    family.add_metric(labels, getattr(connection.stats, field))
                yield family


def render_metrics(collector: Collector) -> bytes:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return generate_latest(registry)
